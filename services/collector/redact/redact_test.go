package redact

import (
	"context"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor/processortest"
)

// Put together at run time, so that no scanner of leaked secrets takes this file for one.
var (
	openai  = "sk-" + "proj-" + strings.Repeat("a1B2", 8)
	github  = "ghp_" + strings.Repeat("Ab3", 12)
	run     = "pdk_" + strings.Repeat("x9-Y_", 8) + "abc"
	aws     = "AKIA" + strings.Repeat("ABC2", 4)
	pem     = "-----BEGIN RSA PRIVATE KEY-----\nMIIE" + strings.Repeat("abcd\n", 9) + "-----END RSA PRIVATE KEY-----"
	slack   = "xoxb-" + "1234567890-abcdef"
	token   = "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0In0" + "." + strings.Repeat("s", 20)
	generic = "sk-" + "litellm" + strings.Repeat("9z", 10)
)

func maskerOf(t *testing.T, patterns string) masker {
	t.Helper()
	all, err := (&Config{Patterns: patterns}).shapes()
	if err != nil {
		t.Fatal(err)
	}
	return masker{shapes: all, found: map[string]int64{}}
}

func TestTexts(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"alone":                 {openai, "[OPENAI_KEY]"},
		"in a sentence":         {"use " + github + ", please", "use [GITHUB_TOKEN], please"},
		"twice":                 {aws + " " + aws, "[AWS_ACCESS_KEY] [AWS_ACCESS_KEY]"},
		"in JSON":               {`{"a": ["` + run + `"]}`, `{"a": ["[PADDOCK_KEY]"]}`},
		"after a JSON line end": {`"first\n` + openai + `"`, `"first\n[OPENAI_KEY]"`},
		"JSON in JSON":          {`"{\"key\": \"` + slack + `\"}"`, `"{\"key\": \"[SLACK_TOKEN]\"}"`},
		"in an environment":     {"OPENAI_API_KEY=" + generic, "OPENAI_API_KEY=[API_KEY]"},
		"a private key":         {"cat id\n" + pem + "\n$", "cat id\n[PRIVATE_KEY]\n$"},
		"a private key in JSON": {strings.ReplaceAll(pem, "\n", `\n`), "[PRIVATE_KEY]"},
		"a private key cut off": {pem[:60], "[PRIVATE_KEY]"},
		"a header":              {"Authorization: Bearer " + strings.Repeat("q7", 10), "Authorization: Bearer [BEARER_TOKEN]"},
		"a token":               {token, "[JWT]"},
		"an address":            {"git clone https://me:hunter22@host/x", "git clone https://me:[URL_PASSWORD]@host/x"},
		"an aws secret":         {"aws_secret_access_key = " + strings.Repeat("Ab/1", 10), "aws_secret_access_key = [AWS_SECRET_KEY]"},
		// What is no secret stays as it is.
		"words with dashes":    {"task-sk-learn-something-with-a-long-name", "task-sk-learn-something-with-a-long-name"},
		"a way to log in":      {"bearer authentication/authorization", "bearer authentication/authorization"},
		"a word that ends so":  {"desk-" + strings.Repeat("a1", 15), "desk-" + strings.Repeat("a1", 15)},
		"a hash":               {strings.Repeat("0123abcd", 8), strings.Repeat("0123abcd", 8)},
		"an address of a file": {"https://host:8080/a/b@c", "https://host:8080/a/b@c"},
		"nothing":              {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := maskerOf(t, "")
			if got := m.text(test.text); got != test.want {
				t.Errorf("expected %q, found %q", test.want, got)
			}
		})
	}
}

func TestDeclaredPatterns(t *testing.T) {
	m := maskerOf(t, `corp-[0-9]{4}  EMPLOYEE\s\d+`)
	if got := m.text("corp-1234 and EMPLOYEE 77"); got != "[DECLARED_SECRET] and [DECLARED_SECRET]" {
		t.Error(got)
	}
}

func TestPatternsThatCanNotBe(t *testing.T) {
	for _, patterns := range []string{"([a-z", "x*", "ok .*"} {
		if err := (&Config{Patterns: patterns}).Validate(); err == nil {
			t.Errorf("expected %q to be refused", patterns)
		}
	}
}

// A secret in every place of a request that holds text, and in every kind of value.
func TestEveryPlace(t *testing.T) {
	const secret = "corp-1234"
	traces := ptrace.NewTraces()
	resource := traces.ResourceSpans().AppendEmpty()
	resource.Resource().Attributes().PutStr("host", secret)
	scope := resource.ScopeSpans().AppendEmpty()
	scope.Scope().SetName(secret)
	scope.Scope().Attributes().PutStr("a", secret)
	span := scope.Spans().AppendEmpty()
	span.SetName("call " + secret)
	span.Status().SetMessage("failed: " + secret)
	span.TraceState().FromRaw("vendor=" + secret)
	span.Attributes().PutStr("text", secret)
	span.Attributes().PutEmptyBytes("bytes").FromRaw([]byte(secret))
	nested := span.Attributes().PutEmptyMap("map")
	nested.PutStr("inner", secret)
	nested.PutEmptySlice("list").AppendEmpty().SetStr(secret)
	span.Attributes().PutStr("db.password", "any form at all")
	nested.PutStr("api_key", "any form at all")
	event := span.Events().AppendEmpty()
	event.SetName(secret)
	event.Attributes().PutStr("exception.message", secret)
	link := span.Links().AppendEmpty()
	link.TraceState().FromRaw("vendor=" + secret)
	link.Attributes().PutStr("reason", secret)

	sink := new(consumertest.TracesSink)
	factory := NewFactory()
	made, err := factory.CreateTraces(
		context.Background(), processortest.NewNopSettings(factory.Type()), &Config{Patterns: "corp-[0-9]{4}"}, sink,
	)
	if err != nil {
		t.Fatal(err)
	}
	if err := made.ConsumeTraces(context.Background(), traces); err != nil {
		t.Fatal(err)
	}
	stored, err := (&ptrace.ProtoMarshaler{}).MarshalTraces(sink.AllTraces()[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{secret, "any form at all"} {
		if strings.Contains(string(stored), text) {
			t.Errorf("expected every %q to be masked, found it in %q", text, stored)
		}
	}
	if found := strings.Count(string(stored), "[DECLARED_SECRET]"); found != 14 {
		t.Errorf("expected 14 masks, found %d in %q", found, stored)
	}
	if kind := span.Attributes().AsRaw()["map"]; kind == nil {
		t.Error("a structured value lost its structure")
	}
}
