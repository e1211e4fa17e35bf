// The two ends of the gateway bench: an instant model provider, and a load generator that asks a gateway in a closed loop.
//
//	tool provider ADDRESS     serves until it is killed; prints the address that it listens on
//	tool load                 reads what to do from standard input (JSON), prints what it saw (JSON)
//
// Standard library alone, and compiled: what the ends cost is subtracted from nothing, so it must be small.
package main

import (
	"fmt"
	"os"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "provider":
		err = serve(os.Args[2])
	case len(os.Args) == 2 && os.Args[1] == "load":
		err = load(os.Stdin, os.Stdout)
	default:
		err = fmt.Errorf("expected `provider ADDRESS` or `load`, found %q", os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gateway bench:", err)
		os.Exit(1)
	}
}
