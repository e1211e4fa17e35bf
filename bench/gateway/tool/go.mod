module paddock/bench/gateway

go 1.22
