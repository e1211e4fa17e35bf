package source

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// An address that sent nothing for this long has full buckets again, or nearly, and is forgotten.
	forgetAfter = 10 * time.Minute
	sweepEvery  = time.Minute
)

type buckets struct {
	bytes, spans, requests *rate.Limiter
	used                   time.Time
}

// limits holds three token buckets an address.
type limits struct {
	config *Config
	mutex  sync.Mutex
	known  map[string]*buckets
	swept  time.Time
}

func newLimits(config *Config) *limits {
	return &limits{config: config, known: map[string]*buckets{}}
}

// allow takes from the address's buckets, from all or from none.
func (l *limits) allow(address string, bytes, spans int, now time.Time) bool {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.sweep(now)
	of, found := l.known[address]
	if !found {
		of = &buckets{
			bytes:    rate.NewLimiter(rate.Limit(l.config.BytesPerSecond), l.config.BurstBytes),
			spans:    rate.NewLimiter(rate.Limit(l.config.SpansPerSecond), l.config.BurstSpans),
			requests: rate.NewLimiter(rate.Limit(l.config.RequestsPerSecond), l.config.BurstRequests),
		}
		l.known[address] = of
	}
	of.used = now
	if of.bytes.TokensAt(now) < float64(bytes) || of.spans.TokensAt(now) < float64(spans) ||
		of.requests.TokensAt(now) < 1 {
		return false
	}
	return of.bytes.AllowN(now, bytes) && of.spans.AllowN(now, spans) && of.requests.AllowN(now, 1)
}

func (l *limits) sweep(now time.Time) {
	if now.Sub(l.swept) < sweepEvery {
		return
	}
	l.swept = now
	for address, of := range l.known {
		if now.Sub(of.used) > forgetAfter {
			delete(l.known, address)
		}
	}
}
