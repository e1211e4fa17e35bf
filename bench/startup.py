"""Cold and warm start of the stack, and the demo from start to verdicts.

    python3 bench/startup.py           with the images that are there

Cold: no volume, no container. Warm: after `stop`. The demo is measured on the running stack and, as a whole, from nothing
but images.
"""

from stack import project, seconds, table


def main() -> None:
    rows = []
    with project() as stack:
        cold, _ = stack.timed("up", "--no-build")
        rows.append(["`up`, empty volumes", seconds(cold)])
        stack.paddock("stop")
        warm, _ = stack.timed("up", "--no-build")
        rows.append(["`up`, after `stop`", seconds(warm)])
        again, _ = stack.timed("up", "--no-build")
        rows.append(["`up`, already running", seconds(again)])
        demo, _ = stack.timed("demo")
        rows.append(["`demo`, stack running", seconds(demo)])
    with project() as stack:
        demo, _ = stack.timed("demo")
        rows.append(["`demo`, images there, empty volumes", seconds(demo)])
    table("Start", ["what", "time"], rows)


if __name__ == "__main__":
    main()
