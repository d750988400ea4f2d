#!/bin/sh
# Verifies runs without Drillbook: sh verify.sh [PUBLIC-KEY.pem [LEDGER.jsonl]], in the folder where archives were unpacked.
# Needs sha256sum, and openssl for the signature. Take the public key from somebody you trust, not from an archive.
# With the site's whole ledger it is also shown that each run's seal is in it, and that no line of it was changed or removed.
set -eu
key=${1:-}
whole=${2:-}
bad=0
unchecked=0
wrong() { echo "WRONG: $*"; bad=1; }

for folder in */; do
    run=${folder%/}
    [ -f "$run/SHA256SUMS" ] || continue
    echo "run $run"

    (cd "$run" && sha256sum --quiet -c SHA256SUMS) || wrong "$run: a file is not what was sealed"

    # Each line of the journal names the digest of the line before it.
    previous=''
    number=0
    while IFS= read -r line; do
        number=$((number + 1))
        case $line in
            *"\"prev\":\"$previous\""*) ;;
            *) wrong "$run/journal.jsonl line $number does not continue the line before it"; break ;;
        esac
        previous=$(printf '%s\n' "$line" | sha256sum | cut -c1-64)
    done < "$run/journal.jsonl"

    # The last line here sealed this run.
    ledger="$run.ledger.jsonl"
    last=$(tail -n 1 "$ledger")
    previous=$(printf '%s\n' "$last" | sha256sum | cut -c1-64)
    [ -z "$whole" ] || grep -qxF -- "$last" "$whole" || wrong "$ledger: the whole ledger has no such line"
    for name in SHA256SUMS record.json; do
        digest=$(sha256sum "$run/$name" | cut -c1-64)
        case $last in
            *"$digest"*) ;;
            *) wrong "$run/$name is not the one that the ledger sealed" ;;
        esac
    done

    if [ ! -f "$run/attestation.pae" ]; then
        echo "  not signed"
        continue
    fi
    for name in SHA256SUMS record.json journal.jsonl; do
        digest=$(sha256sum "$run/$name" | cut -c1-64)
        grep -q "$digest" "$run/attestation.pae" || wrong "$run/$name is not what was signed"
    done
    grep -q "$previous" "$run/attestation.pae" || wrong "$ledger: its last line is not the one that was signed"
    if [ -z "$key" ]; then
        echo "  signed; the signature was not checked: give the public key"
    elif ! command -v openssl >/dev/null 2>&1; then
        echo "  signed; the signature was not checked: there is no openssl here"
        unchecked=1
    elif openssl pkeyutl -verify -pubin -inkey "$key" -rawin -in "$run/attestation.pae" \
            -sigfile "$run/attestation.sig" >/dev/null 2>&1 ||
        openssl dgst -sha256 -verify "$key" -signature "$run/attestation.sig" "$run/attestation.pae" >/dev/null 2>&1; then
        echo "  signed by this key"
    else
        wrong "$run/attestation.sig is not this key's signature"
    fi
done

if [ -n "$whole" ]; then
    previous=''
    number=0
    while IFS= read -r line; do
        number=$((number + 1))
        case $line in
            *"\"previous\":["*"$previous"*"]"*) ;;
            *) wrong "$whole line $number does not continue the line before it"; break ;;
        esac
        previous=$(printf '%s\n' "$line" | sha256sum | cut -c1-64)
    done < "$whole"
    echo "ledger: $number lines, the last one's SHA-256 is $previous"
fi

[ "$bad" = 0 ] || exit 1
[ "$unchecked" = 0 ] || exit 2
echo "intact"
