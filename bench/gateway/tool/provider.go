package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
)

// chunks is how many pieces of text a streamed answer has.
const chunks = 20

const (
	answer = `{"id":"chatcmpl-bench","object":"chat.completion","created":1760000000,"model":"gpt-4o-mini","choices":[{"index":0,` +
		`"message":{"role":"assistant","content":"One two three four five six seven eight nine ten eleven twelve thirteen ` +
		`fourteen fifteen sixteen seventeen eighteen nineteen twenty."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,` +
		`"completion_tokens":20,"total_tokens":40}}`
	head  = `data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"model":"gpt-4o-mini","choices":`
	text  = head + `[{"index":0,"delta":{"role":"assistant","content":"word "},"finish_reason":null}]}` + "\n\n"
	stop  = head + `[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n"
	usage = head + `[],"usage":{"prompt_tokens":20,"completion_tokens":20,"total_tokens":40}}` + "\n\n"
	done  = "data: [DONE]\n\n"
)

// serve answers chat completions in OpenAI's protocol at once, and counts connections and requests (GET /stats).
func serve(address string) error {
	var connections, requests atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"connections":%d,"requests":%d}`, connections.Load(), requests.Load())
	})
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		var asked struct {
			Stream  bool `json:"stream"`
			Options struct {
				IncludeUsage bool `json:"include_usage"`
			} `json:"stream_options"`
		}
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if !asked.Stream {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
			_, _ = w.Write([]byte(answer))
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		flush := w.(http.Flusher).Flush
		for range chunks {
			_, _ = w.Write([]byte(text))
			flush()
		}
		tail := stop
		if asked.Options.IncludeUsage {
			tail += usage
		}
		_, _ = w.Write([]byte(tail + done))
	})
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	server := http.Server{Handler: mux, ConnState: func(connection net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}}
	return server.Serve(listener)
}
