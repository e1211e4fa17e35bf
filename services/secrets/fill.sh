#!/bin/bash
# Makes the stack's secrets at its first start, and hands each service a copy of those that it needs, and of no other.
#
#   /vault            every secret that was made here; no other service mounts it
#   /out/<service>    a service's own volume, its /run/secrets
#   /run/secrets/settings   the settings file (.env), for what only a person can know: the keys of providers and of S3
#
# What was made once is never made again: a restart changes nothing. Files hold no trailing newline, because some of
# their readers take them as they are.
set -euo pipefail
umask 077

settings=/run/secrets/settings
gateway=/gateway.yaml
egress=/egress.yaml
judges=/judges.yaml

fail() {
  printf 'secrets: %s\n' "$*" >&2
  exit 1
}

random() { # bytes
  head -c "$1" /dev/urandom | base64 -w0 | tr '+/' '-_' | tr -d '='
}

# The value of a name in the settings file, by the rules of Compose: `export` and blanks around the name are allowed, the
# last one counts, quotes are taken off, an unquoted value ends before " #".
setting() { # NAME
  local line value='' name
  while IFS= read -r line || [ -n "$line" ]; do
    line=${line%$'\r'}
    [[ $line =~ ^[[:space:]]*(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)[[:space:]]*=[[:space:]]*(.*)$ ]] || continue
    name=${BASH_REMATCH[2]}
    [ "$name" = "$1" ] || continue
    value=${BASH_REMATCH[3]}
    case $value in
      \"*\"*) value=${value#\"} value=${value%%\"*} ;;
      \'*\'*) value=${value#\'} value=${value%%\'*} ;;
      '#'*) value='' ;;
      *)
        value=${value%%[[:space:]]#*}
        value=${value%"${value##*[![:space:]]}"}
        ;;
    esac
  done <"$settings"
  printf '%s' "$value"
}

make() { # name bytes [prefix]
  [ -s "/vault/$1" ] && return
  remake "$@"
}

remake() { # name bytes [prefix]
  printf '%s%s' "${3:-}" "$(random "$2")" >"/vault/.$1"
  sync "/vault/.$1"
  mv "/vault/.$1" "/vault/$1"
}

# Writes a file for a service where it is missing or differs, complete at once; an empty value takes it away.
write() { # service uid name value
  local target=/out/$1/$3 new=/out/$1/.$3
  if [ -z "$4" ]; then
    rm -f "$target"
    return
  fi
  if [ -f "$target" ] && [ "$(cat "$target")" = "$4" ]; then return; fi
  printf '%s' "$4" >"$new"
  chmod 0400 "$new"
  chown "$2:$2" "$new"
  mv "$new" "$target"
}

give() { # service uid name...
  local service=$1 uid=$2 name
  shift 2
  chgrp "$uid" "/out/$service"
  chmod 0750 "/out/$service"
  for name; do
    if [ -v "value[$name]" ]; then
      write "$service" "$uid" "$name" "${value[$name]}"
    else
      write "$service" "$uid" "$name" "$(cat "/vault/$name")"
    fi
  done
}

[ -r "$settings" ] || fail "expected a settings file, found none; set PADDOCK_ENV_FILE to one (cp .env.example .env)"

make admin_password 18
make agent_key 32 pdk-
make collector_key 32
make internal_token 32
make egress_token 32
make kek_passphrase 32
make flask_secret_key 32
# By these MLflow knows the two proxies before it; all three take new ones without a restart.
if [ "${1:-}" = rotate-proxies ]; then
  remake gate_secret 32
  remake tls_secret 32
fi
make gate_secret 32
make tls_secret 32

# The passphrases over the gateway's secrets: kek_passphrase, then kek_passphrase_2 and so on. `rotate-key` makes the next
# one; the database says which one is in force (mlflow/paddock_mlflow/encryption.py), so none is taken away.
passphrases=(kek_passphrase)
while [ -s "/vault/kek_passphrase_$((${#passphrases[@]} + 1))" ]; do
  passphrases+=("kek_passphrase_$((${#passphrases[@]} + 1))")
done
if [ "${1:-}" = rotate-key ]; then
  passphrases+=("kek_passphrase_$((${#passphrases[@]} + 1))")
  make "${passphrases[-1]}" 32
fi

make postgres_superuser_password 32
make postgres_mlflow_password 32
make s3_root_user 15
make s3_root_password 30
make s3_access_key 15
make s3_secret_key 30
make demo_api_key 24 demo-

# What does not come from the vault.
declare -A value=()
for key in OPENAI_API_KEY ANTHROPIC_API_KEY GEMINI_API_KEY LLM_API_KEY S3_ACCESS_KEY S3_SECRET_KEY; do
  found=$(setting "$key")
  flag=HAS_$key
  # Compose saw a value, in .env or in the shell, that the settings file does not hold. Going on would serve the demo
  # model to somebody who believes to have set a key.
  if [ -n "${!flag:-}" ] && [ -z "$found" ]; then
    fail "expected $key in the settings file (PADDOCK_ENV_FILE), found it elsewhere (in the shell, or in a" \
      ".env without the line PADDOCK_ENV_FILE=.env); write both lines into .env, or start by ./paddock up"
  fi
  value[${key,,}]=$found
done

# Names of settings that a configuration mentions, comments left out.
names_in() { # file
  sed 's/#.*//' "$1" | grep -oE '\b[A-Z][A-Z0-9_]{2,99}\b' | sort -u
}

# Further names that the declared configuration mentions and the settings hold: keys of other providers, what webhooks
# sign with. Nothing that is for another service.
named=()
while read -r name; do
  case $name in
    OPENAI_API_KEY | ANTHROPIC_API_KEY | GEMINI_API_KEY | LLM_API_KEY | S3_* | POSTGRES_* | PADDOCK_*) continue ;;
    DEMO_API_KEY | ADMIN_PASSWORD | AGENT_KEY | COLLECTOR_KEY | INTERNAL_TOKEN | KEK_*) continue ;;
    FLASK_SECRET_KEY | GATE_SECRET | TLS_SECRET | EGRESS_*) continue ;;
  esac
  found=$(setting "$name")
  if [ -n "$found" ]; then
    value[${name,,}]=$found
    named+=("${name,,}")
  fi
done < <(names_in "$gateway")
# Those of an earlier configuration.
for file in /out/mlflow-setup/*; do
  name=${file##*/}
  case " gateway.yaml judges.yaml admin_password demo_api_key openai_api_key anthropic_api_key gemini_api_key llm_api_key ${named[*]} " in
    *" $name "*) ;;
    *) rm -f "$file" ;;
  esac
done

# What the egress proxy adds to requests: the secrets that its configuration names, and none of another service.
egress_named=()
while read -r name; do
  case $name in
    OPENAI_API_KEY | ANTHROPIC_API_KEY | GEMINI_API_KEY | LLM_API_KEY | S3_* | POSTGRES_* | PADDOCK_*) continue ;;
    DEMO_API_KEY | ADMIN_PASSWORD | AGENT_KEY | INTERNAL_TOKEN | KEK_* | FLASK_SECRET_KEY | GATE_SECRET | TLS_SECRET) continue ;;
    EGRESS_*) continue ;;
  esac
  found=$(setting "$name")
  if [ -n "$found" ]; then
    value[${name,,}]=$found
    egress_named+=("${name,,}")
  fi
done < <(names_in "$egress")
for file in /out/egress/*; do
  name=${file##*/}
  case " egress_token ${egress_named[*]} " in
    *" $name "*) ;;
    *) rm -f "$file" ;;
  esac
done

own_store=false
case ${value[s3_access_key]:+a}${value[s3_secret_key]:+s} in
  as) ;;
  '')
    own_store=true
    unset 'value[s3_access_key]' 'value[s3_secret_key]'
    value[s3_root_user]=$(cat /vault/s3_root_user)
    value[s3_root_password]=$(cat /vault/s3_root_password)
    ;;
  *) fail 'expected S3_ACCESS_KEY and S3_SECRET_KEY together, found one of them; set both in .env, or neither' ;;
esac

give postgres 999 postgres_superuser_password postgres_mlflow_password
give object-store 10004 s3_root_user s3_root_password
# MinIO is told MLflow's account by the set-up; SeaweedFS' accounts stand in its configuration.
if [ "${S3_STORE:-minio}" = seaweedfs ] && $own_store; then
  give object-store 10004 s3_access_key s3_secret_key
else
  rm -f /out/object-store/s3_access_key /out/object-store/s3_secret_key
fi
give mlflow-migrate 10001 postgres_mlflow_password
give mlflow 10001 admin_password agent_key collector_key internal_token egress_token "${passphrases[@]}" flask_secret_key \
  gate_secret tls_secret postgres_mlflow_password s3_access_key s3_secret_key
give mlflow-jobs 10001 internal_token postgres_mlflow_password s3_access_key s3_secret_key
give mlflow-setup 10001 admin_password demo_api_key openai_api_key anthropic_api_key gemini_api_key llm_api_key \
  "${named[@]}"
# Beside them what the set-up reads it for: on the host the file may be closed to the set-up's user.
write mlflow-setup 10001 gateway.yaml "$(cat "$gateway")"
write mlflow-setup 10001 judges.yaml "$(cat "$judges")"
give gate 10002 agent_key gate_secret
give tls 10002 tls_secret
give collector 10007 collector_key
give demo-model 10003 demo_api_key
give egress 10006 egress_token "${egress_named[@]}"
# Where the proxy writes what agents read.
chgrp 10006 /out/egress-trust
chmod 0775 /out/egress-trust
# Somebody else's store has no root account that we know: an empty value takes the files away.
$own_store || value[s3_root_user]='' value[s3_root_password]=''
give object-store-setup 10001 s3_root_user s3_root_password s3_access_key s3_secret_key

echo 'secrets: ready'
