// Package source writes on each batch of spans who sent it, and bounds how much one sender may send.
//
// What stands in the request's headers is gone once a batch lies in the queue on disk, so it is written into the resource
// attributes, over whatever the sender put there under the same names. MLflow's plugin reads them, believes them from this
// collector alone, and takes them off again (mlflow/paddock_mlflow/collected.py).
package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Names of what is written; no sender can write under the prefix.
const (
	Prefix = "paddock.source."
	// KeySHA256 is the SHA-256 of the key that was presented, in hex; missing where there was none. The key itself is
	// never stored.
	KeySHA256 = Prefix + "key_sha256"
	// ExperimentID is what the sender claims, as x-mlflow-experiment-id says it; missing where it says nothing.
	ExperimentID = Prefix + "experiment_id"
	// Address is that of the sender's container.
	Address = Prefix + "address"
	// ReceivedUnixNano is when it came. A key is judged by that moment, however long the batch then waited.
	ReceivedUnixNano = Prefix + "received_unix_nano"
)

const (
	experimentHeader = "x-mlflow-experiment-id"
	longestClaim     = 256
)

// NewFactory makes the processor `source`.
func NewFactory() processor.Factory {
	return processor.NewFactory(
		component.MustNewType("source"), defaultConfig, processor.WithTraces(create, component.StabilityLevelBeta),
	)
}

func create(
	ctx context.Context, settings processor.Settings, config component.Config, next consumer.Traces,
) (processor.Traces, error) {
	refused, err := settings.MeterProvider.Meter("paddock/collector/source").Int64Counter(
		"paddock_refused_spans",
		metric.WithUnit("{spans}"),
		metric.WithDescription("Spans that were answered with an error because their sender sends too much."),
	)
	if err != nil {
		return nil, err
	}
	p := &sourceProcessor{config: config.(*Config), limits: newLimits(config.(*Config)), refused: refused, now: time.Now}
	return processorhelper.NewTraces(
		ctx, settings, config, next, p.process,
		processorhelper.WithCapabilities(consumer.Capabilities{MutatesData: true}),
	)
}

type sourceProcessor struct {
	config  *Config
	limits  *limits
	refused metric.Int64Counter
	now     func() time.Time
}

func (p *sourceProcessor) process(ctx context.Context, traces ptrace.Traces) (ptrace.Traces, error) {
	from := client.FromContext(ctx)
	now := p.now()
	if err := p.admit(ctx, address(from), traces, now); err != nil {
		return traces, err
	}
	stamp(traces, from, now)
	return traces, nil
}

func (p *sourceProcessor) admit(ctx context.Context, address string, traces ptrace.Traces, now time.Time) error {
	bytes, spans := (&ptrace.ProtoMarshaler{}).TracesSize(traces), traces.SpanCount()
	refuse := func(reason string) {
		p.refused.Add(ctx, int64(spans), metric.WithAttributes(attribute.String("reason", reason)))
	}
	if bytes > p.config.BurstBytes || spans > p.config.BurstSpans {
		refuse("too_large")
		return status.Errorf(
			codes.InvalidArgument,
			"expected at most %d bytes and %d spans in a request, found %d and %d; send fewer at once"+
				" (OTEL_BSP_MAX_EXPORT_BATCH_SIZE)", p.config.BurstBytes, p.config.BurstSpans, bytes, spans,
		)
	}
	if !p.limits.allow(address, bytes, spans, now) {
		refuse("too_many")
		// Unavailable rather than ResourceExhausted: of the two, it is 503 and not 429 that every exporter sends again.
		return status.Errorf(
			codes.Unavailable,
			"expected at most %g bytes, %g spans and %g requests a second from one client, found more; try again later",
			p.config.BytesPerSecond, p.config.SpansPerSecond, p.config.RequestsPerSecond,
		)
	}
	return nil
}

func stamp(traces ptrace.Traces, from client.Info, now time.Time) {
	key, claim, origin := presentedKey(from.Metadata), claimedExperiment(from.Metadata), address(from)
	resources := traces.ResourceSpans()
	for i := range resources.Len() {
		attributes := resources.At(i).Resource().Attributes()
		// Every one: a sender may have written the same name twice.
		attributes.RemoveIf(func(name string, _ pcommon.Value) bool { return strings.HasPrefix(name, Prefix) })
		if key != "" {
			digest := sha256.Sum256([]byte(key))
			attributes.PutStr(KeySHA256, hex.EncodeToString(digest[:]))
		}
		if claim != "" {
			attributes.PutStr(ExperimentID, claim)
		}
		attributes.PutStr(Address, origin)
		attributes.PutInt(ReceivedUnixNano, now.UnixNano())
	}
}

// presentedKey is what stands after "Bearer" in the header Authorization. Whether it is worth something is the plugin's
// business; two different ones are worth nothing.
func presentedKey(metadata client.Metadata) string {
	var keys []string
	for _, value := range metadata.Get("authorization") {
		scheme, credentials, _ := strings.Cut(strings.TrimSpace(value), " ")
		if strings.EqualFold(scheme, "bearer") {
			keys = append(keys, strings.TrimSpace(credentials))
		} else {
			keys = append(keys, value)
		}
	}
	return single(keys)
}

func claimedExperiment(metadata client.Metadata) string {
	claim := single(metadata.Get(experimentHeader))
	if len(claim) > longestClaim {
		claim = claim[:longestClaim]
	}
	return strings.ToValidUTF8(claim, "?")
}

// single is the one value of a header; several that differ are joined to one that is nobody's.
func single(values []string) string {
	values = slices.Compact(values)
	return strings.Join(values, ",")
}

func address(from client.Info) string {
	if from.Addr == nil {
		return ""
	}
	if host, _, err := net.SplitHostPort(from.Addr.String()); err == nil {
		return host
	}
	return from.Addr.String()
}
