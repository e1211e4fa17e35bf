"""`./paddock audit`: whether the fence of the running stack holds, by the same probes as the tests under tests/escape.

`shipment` packs the probes, `agent` runs them in an agent's container made for it, `rules` looks at what the engine says
of all containers and networks, `report` puts the lines together.
"""
