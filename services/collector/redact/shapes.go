package redact

import "regexp"

// shape is a form that the issuer of a kind of secret publishes.
type shape struct {
	kind string
	// One of these stands in every text that the pattern matches: most texts are passed over without it.
	hints   []string
	pattern *regexp.Regexp
	// Whether the pattern's second group is what stands behind the secret, and stays.
	keepsEnd bool
	// What the pattern alone can't tell; nil where it can.
	check func(match string) bool
}

// begin is where a word begins, also right after an escaped line end or tab in a JSON text. What it takes is kept.
const begin = `(\b|\\[nrt])`

// The forms and their names are those of the gateway's guardrails (mlflow/paddock_mlflow/guardrails/detectors.py), which
// have the sources; their patterns look around themselves, which Go's don't. The last four are the collector's own.
var shapes = []shape{
	of("private_key", `()-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----`+
		`(?:[\s\S]*?-----END (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s\\]*)`, "PRIVATE KEY"),
	of("aws_access_key", begin+`(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b`, "AKIA", "ASIA", "ABIA", "ACCA"),
	of("aws_secret_key", `((?i:aws_?secret_?(?:access_?)?key)["'\\]{0,3}\s{0,3}[=:]\s{0,3}["'\\]{0,3})[A-Za-z0-9/+]{40}`,
		"aws", "AWS"),
	of("github_token", begin+`(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})\b`,
		"ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
	of("gitlab_token", begin+`gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat|ffct)-[A-Za-z0-9_-]{20,64}`, "gl"),
	of("anthropic_key", begin+`sk-ant-[A-Za-z0-9]{2,16}-[A-Za-z0-9_-]{20,200}`, "sk-ant-"),
	of("openai_key", begin+`sk-(?:(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{20,200}|[A-Za-z0-9]{48}\b)`, "sk-"),
	of("google_key", begin+`AIza[A-Za-z0-9_-]{35}`, "AIza"),
	of("slack_token", begin+`(?:xox[abeoprs]-[A-Za-z0-9-]{10,250}|xapp-\d-[A-Za-z0-9-]{10,250}`+
		`|https://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{20,200})`, "xox", "xapp-", "hooks.slack.com"),
	of("stripe_key", begin+`(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,247}\b`, "_live_", "_test_"),
	of("huggingface_token", begin+`hf_[A-Za-z0-9]{34,64}\b`, "hf_"),
	of("npm_token", begin+`npm_[A-Za-z0-9]{36}\b`, "npm_"),
	of("pypi_token", begin+`pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,}`, "pypi-AgEIcHlwaS5vcmc"),
	of("jwt", begin+`eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{16,}`, "eyJ"),
	// The stack's own keys: a run's, those that people make, and what it made for itself.
	of("paddock_key", begin+`pdk[_-][A-Za-z0-9_-]{16,128}`, "pdk_", "pdk-"),
	// Servers that speak OpenAI's protocol hand out keys of this form in any length.
	checked("api_key", hasDigitAndLetter, begin+`sk-[A-Za-z0-9_-]{20,200}`, "sk-"),
	checked("bearer_token", hasDigitAndLetter, `((?i:\bbearer)(?:\s|%20)+)[A-Za-z0-9._~+/-]{16,}=*`, "earer", "EARER"),
	between("url_password", `(://[^/\s:@"'\\]{0,100}:)[^/\s:@"'\\]{3,200}(@)`, "://"),
}

// secretName matches attributes that hold nothing but a secret, whatever its form.
var secretName = regexp.MustCompile(
	`(?i)(^|[._-])(api[_-]?key|apikey|password|passwd|secret[_-]?key|client[_-]?secret|access[_-]?token|refresh[_-]?token|` +
		`authorization|cookie|set-cookie|private[_-]?key)$`,
)

func of(kind, pattern string, hints ...string) shape {
	return shape{kind: kind, hints: hints, pattern: regexp.MustCompile(pattern)}
}

func between(kind, pattern string, hints ...string) shape {
	made := of(kind, pattern, hints...)
	made.keepsEnd = true
	return made
}

func checked(kind string, check func(string) bool, pattern string, hints ...string) shape {
	made := of(kind, pattern, hints...)
	made.check = check
	return made
}

// hasDigitAndLetter tells a key from words that are joined by dashes.
func hasDigitAndLetter(match string) bool {
	digit, letter := false, false
	for _, c := range match[min(3, len(match)):] {
		digit = digit || c >= '0' && c <= '9'
		letter = letter || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
	}
	return digit && letter
}
