package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor/processortest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const key = "pdk_a-key-of-the-tests"

func from(address string, headers map[string][]string) context.Context {
	return client.NewContext(context.Background(), client.Info{
		Addr: &net.TCPAddr{IP: net.ParseIP(address), Port: 40000}, Metadata: client.NewMetadata(headers),
	})
}

func spans(count int) ptrace.Traces {
	traces := ptrace.NewTraces()
	scope := traces.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty()
	for range count {
		scope.Spans().AppendEmpty().SetName("a span")
	}
	return traces
}

func limited(burstSpans, burstRequests int) *Config {
	return &Config{
		BytesPerSecond: 1 << 20, BurstBytes: 1 << 20,
		SpansPerSecond: 1, BurstSpans: burstSpans,
		RequestsPerSecond: 1, BurstRequests: burstRequests,
	}
}

type sender func(ctx context.Context, traces ptrace.Traces) (ptrace.Traces, error)

func through(t *testing.T, config *Config) sender {
	t.Helper()
	sink := new(consumertest.TracesSink)
	factory := NewFactory()
	made, err := factory.CreateTraces(
		context.Background(), processortest.NewNopSettings(factory.Type()), config, sink,
	)
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, traces ptrace.Traces) (ptrace.Traces, error) {
		sink.Reset()
		if err := made.ConsumeTraces(ctx, traces); err != nil {
			return traces, err
		}
		return sink.AllTraces()[0], nil
	}
}

func TestWhoSentItIsWrittenOverWhatTheSenderWrote(t *testing.T) {
	send := through(t, defaultConfig().(*Config))
	traces := spans(1)
	attributes := traces.ResourceSpans().At(0).Resource().Attributes()
	attributes.PutStr(KeySHA256, "forged")
	attributes.PutStr(Prefix+"anything", "forged")
	attributes.PutStr("service.name", "runner.py")
	got, err := send(from("10.0.0.7", map[string][]string{
		"Authorization": {"bearer  " + key}, "X-MLflow-Experiment-Id": {"3"},
	}), traces)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(key))
	found := got.ResourceSpans().At(0).Resource().Attributes().AsRaw()
	received, _ := found[ReceivedUnixNano].(int64)
	if age := time.Since(time.Unix(0, received)); age < 0 || age > time.Minute {
		t.Errorf("expected the moment of now, found %v ago", age)
	}
	delete(found, ReceivedUnixNano)
	want := map[string]any{
		"service.name": "runner.py", KeySHA256: hex.EncodeToString(digest[:]), ExperimentID: "3", Address: "10.0.0.7",
	}
	if len(found) != len(want) {
		t.Errorf("expected %v, found %v", want, found)
	}
	for name, value := range want {
		if found[name] != value {
			t.Errorf("expected %s to be %v, found %v", name, value, found[name])
		}
	}
	encoded, _ := (&ptrace.ProtoMarshaler{}).MarshalTraces(got)
	if strings.Contains(string(encoded), key) {
		t.Error("the key itself is stored")
	}
}

func TestWithoutHeadersThereIsNoKeyAndNoClaim(t *testing.T) {
	send := through(t, defaultConfig().(*Config))
	traces := spans(1)
	traces.ResourceSpans().At(0).Resource().Attributes().PutStr(KeySHA256, "forged")
	got, err := send(from("10.0.0.7", nil), traces)
	if err != nil {
		t.Fatal(err)
	}
	attributes := got.ResourceSpans().At(0).Resource().Attributes()
	for _, name := range []string{KeySHA256, ExperimentID} {
		if value, found := attributes.Get(name); found {
			t.Errorf("expected no %s, found %q", name, value.Str())
		}
	}
}

func TestSeveralKeysAreNobodys(t *testing.T) {
	one := presentedKey(client.NewMetadata(map[string][]string{"authorization": {"Bearer " + key}}))
	two := presentedKey(client.NewMetadata(map[string][]string{"authorization": {"Bearer " + key, "Bearer other"}}))
	same := presentedKey(client.NewMetadata(map[string][]string{"authorization": {"Bearer " + key, "Bearer " + key}}))
	basic := presentedKey(client.NewMetadata(map[string][]string{"authorization": {"Basic YTpi"}}))
	if one != key || same != key || two == key || two == "other" || basic == "" {
		t.Errorf("found %q, %q, %q, %q", one, same, two, basic)
	}
}

func TestAFloodIsHeldBackAndItsNeighbourIsNot(t *testing.T) {
	send := through(t, limited(10, 100))
	for sent := range 3 {
		_, err := send(from("10.0.0.7", nil), spans(4))
		if refused := status.Code(err) == codes.Unavailable; refused != (sent == 2) {
			t.Fatalf("request %d: %v", sent, err)
		}
	}
	if _, err := send(from("10.0.0.8", nil), spans(4)); err != nil {
		t.Errorf("the neighbour is held back: %v", err)
	}
	// Another key or port of the same container is the same sender.
	again := from("10.0.0.7", map[string][]string{"authorization": {"Bearer other"}})
	if _, err := send(again, spans(4)); status.Code(err) != codes.Unavailable {
		t.Errorf("expected the sender to be known again, found %v", err)
	}
}

func TestManySmallRequestsAreAFloodToo(t *testing.T) {
	send := through(t, limited(1000, 3))
	for sent := range 4 {
		_, err := send(from("10.0.0.7", nil), spans(1))
		if refused := status.Code(err) == codes.Unavailable; refused != (sent == 3) {
			t.Fatalf("request %d: %v", sent, err)
		}
	}
}

func TestWhatCanNeverPassIsRefusedForGood(t *testing.T) {
	send := through(t, limited(10, 100))
	if _, err := send(from("10.0.0.7", nil), spans(11)); status.Code(err) != codes.InvalidArgument {
		t.Errorf("found %v", err)
	}
}

func TestBucketsFillAgainAndAreForgotten(t *testing.T) {
	limits := newLimits(&Config{
		BytesPerSecond: 10, BurstBytes: 100, SpansPerSecond: 10, BurstSpans: 100, RequestsPerSecond: 10, BurstRequests: 100,
	})
	now := time.Unix(1_800_000_000, 0)
	if !limits.allow("a", 100, 1, now) || limits.allow("a", 100, 1, now) {
		t.Error("expected one burst, and then none")
	}
	if !limits.allow("a", 50, 1, now.Add(5*time.Second)) {
		t.Error("expected half a burst after five seconds")
	}
	// What one bucket refuses is not taken from the other.
	if limits.allow("b", 1, 101, now) || !limits.allow("b", 100, 1, now) {
		t.Error("expected nothing to be taken by a refusal")
	}
	limits.allow("c", 1, 1, now.Add(2*forgetAfter))
	if len(limits.known) != 1 {
		t.Errorf("expected those that are idle to be forgotten, found %d", len(limits.known))
	}
}

func TestLimitsOfNothing(t *testing.T) {
	if err := (&Config{}).Validate(); err == nil {
		t.Error("expected limits of zero to be refused")
	}
	if err := defaultConfig().(*Config).Validate(); err != nil {
		t.Error(err)
	}
}
