package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// order is what one cell of the bench asks for.
type order struct {
	URL         string            `json:"url"`
	Headers     map[string]string `json:"headers"`
	Body        json.RawMessage   `json:"body"`
	Stream      bool              `json:"stream"`
	Concurrency int               `json:"concurrency"`
	Warmup      float64           `json:"warmup_seconds"`
	Seconds     float64           `json:"seconds"`
	// A slow gateway goes on beyond the time until it has answered so many.
	AtLeast int64 `json:"at_least"`
}

// seen is what a cell came to. Times are in milliseconds.
type seen struct {
	WarmedUp  int64    `json:"warmed_up"`
	Requests  int64    `json:"requests"`
	Errors    int64    `json:"errors"`
	Samples   []string `json:"error_samples"`
	Seconds   float64  `json:"seconds"`
	PerSecond float64  `json:"per_second"`
	P50       float64  `json:"p50"`
	P95       float64  `json:"p95"`
	P99       float64  `json:"p99"`
	Max       float64  `json:"max"`
	FirstP50  float64  `json:"first_byte_p50"`
	// Upper edge of a bucket (each a tenth wider than the one before) and how many answers fell into it.
	Histogram [][2]float64 `json:"histogram"`
}

type sample struct{ first, whole time.Duration }

// load runs a closed loop: each of the callers sends its next request when it has the whole answer to its last one, on one
// kept-alive connection.
func load(in io.Reader, out io.Writer) error {
	var asked order
	if err := json.NewDecoder(in).Decode(&asked); err != nil {
		return err
	}
	client := &http.Client{
		Timeout: 60 * time.Second,
		Transport: &http.Transport{
			MaxIdleConnsPerHost: asked.Concurrency,
			DisableCompression:  true,
		},
	}
	var result seen
	warm, _ := drive(client, asked, asked.Warmup, int64(asked.Concurrency), &result)
	result.WarmedUp = int64(len(warm))
	samples, spent := drive(client, asked, asked.Seconds, asked.AtLeast, &result)
	result.Requests = int64(len(samples))
	result.Seconds = spent.Seconds()
	result.PerSecond = float64(len(samples)) / spent.Seconds()
	result.summarise(samples)
	return json.NewEncoder(out).Encode(result)
}

func drive(
	client *http.Client, asked order, seconds float64, atLeast int64, result *seen,
) ([]sample, time.Duration) {
	start := time.Now()
	deadline := start.Add(time.Duration(seconds * float64(time.Second)))
	var begun atomic.Int64
	var guard sync.Mutex
	var all []sample
	var callers sync.WaitGroup
	for range asked.Concurrency {
		callers.Add(1)
		go func() {
			defer callers.Done()
			var mine []sample
			for time.Now().Before(deadline) || begun.Load() < atLeast {
				begun.Add(1)
				one, err := call(client, asked)
				if err != nil {
					guard.Lock()
					result.Errors++
					if len(result.Samples) < 3 {
						result.Samples = append(result.Samples, err.Error())
					}
					// Nothing is worth measuring any more.
					stop := result.Errors > 20
					guard.Unlock()
					if stop {
						break
					}
					continue
				}
				mine = append(mine, one)
			}
			guard.Lock()
			all = append(all, mine...)
			guard.Unlock()
		}()
	}
	callers.Wait()
	return all, time.Since(start)
}

func call(client *http.Client, asked order) (sample, error) {
	request, err := http.NewRequest(http.MethodPost, asked.URL, bytes.NewReader(asked.Body))
	if err != nil {
		return sample{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	for name, value := range asked.Headers {
		request.Header.Set(name, value)
	}
	start := time.Now()
	response, err := client.Do(request)
	if err != nil {
		return sample{}, err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	one := make([]byte, 1)
	if _, err := io.ReadFull(response.Body, one); err != nil {
		return sample{}, fmt.Errorf("%d without a body: %w", response.StatusCode, err)
	}
	first := time.Since(start)
	body.Write(one)
	if _, err := body.ReadFrom(response.Body); err != nil {
		return sample{}, err
	}
	whole := time.Since(start)
	if response.StatusCode != http.StatusOK {
		return sample{}, fmt.Errorf("%d: %.300s", response.StatusCode, body.String())
	}
	return sample{first, whole}, complete(body.String(), asked.Stream)
}

// complete tells whether an answer holds everything that the provider said. MLflow's unified route ends a stream without
// [DONE], so the reason of the stop counts as its end.
func complete(body string, stream bool) error {
	if !stream {
		if !strings.Contains(body, "eighteen nineteen twenty.") {
			return fmt.Errorf("an answer without its text: %.300s", body)
		}
		return nil
	}
	if found := strings.Count(body, "word "); found != chunks {
		return fmt.Errorf("a stream of %d chunks instead of %d: %.300s", found, chunks, body)
	}
	if !strings.Contains(body, `"finish_reason":"stop"`) && !strings.Contains(body, `"finish_reason": "stop"`) {
		return errors.New("a stream without its end")
	}
	return nil
}

func (result *seen) summarise(samples []sample) {
	if len(samples) == 0 {
		return
	}
	whole := make([]time.Duration, len(samples))
	first := make([]time.Duration, len(samples))
	for i, one := range samples {
		whole[i], first[i] = one.whole, one.first
	}
	slices.Sort(whole)
	slices.Sort(first)
	result.P50, result.P95, result.P99 = quantile(whole, 0.5), quantile(whole, 0.95), quantile(whole, 0.99)
	result.Max = milliseconds(whole[len(whole)-1])
	result.FirstP50 = quantile(first, 0.5)
	counts := map[int]float64{}
	for _, one := range whole {
		counts[int(math.Ceil(math.Log(milliseconds(one))/math.Log(1.1)))]++
	}
	for bucket, count := range counts {
		edge := math.Round(math.Pow(1.1, float64(bucket))*1000) / 1000
		result.Histogram = append(result.Histogram, [2]float64{edge, count})
	}
	slices.SortFunc(result.Histogram, func(a, b [2]float64) int { return int(math.Copysign(1, a[0]-b[0])) })
}

// quantile is the nearest-rank quantile of sorted times, in milliseconds.
func quantile(sorted []time.Duration, q float64) float64 {
	return milliseconds(sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)])
}

func milliseconds(one time.Duration) float64 {
	return float64(one.Nanoseconds()) / 1e6
}
