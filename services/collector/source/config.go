package source

import (
	"fmt"

	"go.opentelemetry.io/collector/component"
)

// Config bounds what one client's address may send. An address stands for a container: it can't choose another one.
type Config struct {
	// BytesPerSecond is what is accepted for good, of uncompressed OTLP.
	BytesPerSecond float64 `mapstructure:"bytes_per_second"`
	// BurstBytes is what is accepted at once.
	BurstBytes int `mapstructure:"burst_bytes"`
	// SpansPerSecond is what is accepted for good.
	SpansPerSecond float64 `mapstructure:"spans_per_second"`
	// BurstSpans is what is accepted at once.
	BurstSpans int `mapstructure:"burst_spans"`
	// RequestsPerSecond is what is accepted for good: MLflow has work with each, however small.
	RequestsPerSecond float64 `mapstructure:"requests_per_second"`
	// BurstRequests is what is accepted at once.
	BurstRequests int `mapstructure:"burst_requests"`
}

var _ component.Config = (*Config)(nil)

func defaultConfig() component.Config {
	return &Config{
		BytesPerSecond: 1 << 20, BurstBytes: 64 << 20,
		SpansPerSecond: 200, BurstSpans: 10_000,
		RequestsPerSecond: 5, BurstRequests: 200,
	}
}

// Validate refuses limits that would let nothing pass.
func (c *Config) Validate() error {
	if c.BytesPerSecond <= 0 || c.BurstBytes <= 0 || c.SpansPerSecond <= 0 || c.BurstSpans <= 0 ||
		c.RequestsPerSecond <= 0 || c.BurstRequests <= 0 {
		return fmt.Errorf("expected limits above zero, found %+v", *c)
	}
	return nil
}
