// Package redact masks secrets in everything that a span says, before anything is written to disk.
//
// The contrib processor of that purpose leaves links, status messages, names and trace states as they are, and turns a
// structured value that holds a secret into text; agents put secrets into all of them.
package redact

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Config says what is masked beside the known shapes.
type Config struct {
	// Patterns are regular expressions (RE2) of an operator's own secrets, separated by blanks.
	Patterns string `mapstructure:"patterns"`
}

var _ component.Config = (*Config)(nil)

const declared = "declared_secret"

// Validate refuses what is no pattern, and what would mask every text.
func (c *Config) Validate() error {
	_, err := c.shapes()
	return err
}

func (c *Config) shapes() ([]shape, error) {
	// Declared ones first: a known shape inside a declared one would break it up.
	var all []shape
	for _, text := range strings.Fields(c.Patterns) {
		pattern, err := regexp.Compile("()(?:" + text + ")")
		if err != nil {
			return nil, fmt.Errorf("expected a regular expression in REDACT_PATTERNS, found %q: %w", text, err)
		}
		if pattern.MatchString("") {
			return nil, fmt.Errorf("expected patterns in REDACT_PATTERNS that an empty text does not match, found %q", text)
		}
		all = append(all, shape{kind: declared, pattern: pattern})
	}
	return append(all, shapes...), nil
}

// NewFactory makes the processor `redact`.
func NewFactory() processor.Factory {
	return processor.NewFactory(
		component.MustNewType("redact"),
		func() component.Config { return &Config{} },
		processor.WithTraces(create, component.StabilityLevelBeta),
	)
}

func create(
	ctx context.Context, settings processor.Settings, config component.Config, next consumer.Traces,
) (processor.Traces, error) {
	all, err := config.(*Config).shapes()
	if err != nil {
		return nil, err
	}
	masked, err := settings.MeterProvider.Meter("paddock/collector/redact").Int64Counter(
		"paddock_masked_secrets",
		metric.WithUnit("{secrets}"),
		metric.WithDescription("Secrets that were masked in spans, by their kind."),
	)
	if err != nil {
		return nil, err
	}
	process := func(ctx context.Context, traces ptrace.Traces) (ptrace.Traces, error) {
		m := masker{shapes: all, found: map[string]int64{}}
		m.traces(traces)
		for kind, count := range m.found {
			masked.Add(ctx, count, metric.WithAttributes(attribute.String("kind", kind)))
		}
		return traces, nil
	}
	return processorhelper.NewTraces(
		ctx, settings, config, next, process,
		processorhelper.WithCapabilities(consumer.Capabilities{MutatesData: true}),
	)
}

type masker struct {
	shapes []shape
	found  map[string]int64
}

func (m *masker) traces(traces ptrace.Traces) {
	for _, resource := range traces.ResourceSpans().All() {
		m.attributes(resource.Resource().Attributes())
		for _, scope := range resource.ScopeSpans().All() {
			m.attributes(scope.Scope().Attributes())
			m.set(scope.Scope().Name(), scope.Scope().SetName)
			for _, span := range scope.Spans().All() {
				m.span(span)
			}
		}
	}
}

func (m *masker) span(span ptrace.Span) {
	m.set(span.Name(), span.SetName)
	m.set(span.Status().Message(), span.Status().SetMessage)
	m.set(span.TraceState().AsRaw(), span.TraceState().FromRaw)
	m.attributes(span.Attributes())
	for _, event := range span.Events().All() {
		m.set(event.Name(), event.SetName)
		m.attributes(event.Attributes())
	}
	for _, link := range span.Links().All() {
		m.set(link.TraceState().AsRaw(), link.TraceState().FromRaw)
		m.attributes(link.Attributes())
	}
}

func (m *masker) attributes(attributes pcommon.Map) {
	for name, value := range attributes.All() {
		if value.Type() == pcommon.ValueTypeStr && value.Str() != "" && secretName.MatchString(name) {
			m.found["named"]++
			value.SetStr("[SECRET]")
			continue
		}
		m.value(value)
	}
}

func (m *masker) value(value pcommon.Value) {
	switch value.Type() {
	case pcommon.ValueTypeStr:
		m.set(value.Str(), value.SetStr)
	case pcommon.ValueTypeBytes:
		m.set(string(value.Bytes().AsRaw()), func(text string) { value.Bytes().FromRaw([]byte(text)) })
	case pcommon.ValueTypeMap:
		m.attributes(value.Map())
	case pcommon.ValueTypeSlice:
		for _, item := range value.Slice().All() {
			m.value(item)
		}
	}
}

func (m *masker) set(text string, set func(string)) {
	if masked := m.text(text); masked != text {
		set(masked)
	}
}

// text is the text with `[OPENAI_KEY]` and the like in the place of what was found.
func (m *masker) text(text string) string {
	for _, shape := range m.shapes {
		if !mayHold(text, shape.hints) {
			continue
		}
		matches := shape.pattern.FindAllStringSubmatchIndex(text, -1)
		if matches == nil {
			continue
		}
		var masked strings.Builder
		position := 0
		for _, match := range matches {
			// What the first group took stands before the secret, and stays.
			secret, end := match[3], match[1]
			if shape.keepsEnd {
				end = match[4]
			}
			if shape.check != nil && !shape.check(text[secret:end]) {
				continue
			}
			m.found[shape.kind]++
			masked.WriteString(text[position:secret])
			masked.WriteString("[" + strings.ToUpper(shape.kind) + "]")
			position = end
		}
		masked.WriteString(text[position:])
		text = masked.String()
	}
	return text
}

func mayHold(text string, hints []string) bool {
	if len(hints) == 0 {
		return true
	}
	for _, hint := range hints {
		if strings.Contains(text, hint) {
			return true
		}
	}
	return false
}
