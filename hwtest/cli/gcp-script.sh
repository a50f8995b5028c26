#!/bin/bash
# Start-up script of a Google Cloud VM, printed by `hwtest gcp-script`: runs hwtest
# once and writes its report, JSON between two marker lines, to the serial console.
#
#   gcloud compute instances create probe --machine-type=n2-standard-4 \
#       --enable-nested-virtualization --metadata-from-file=startup-script=THIS
#   gcloud compute instances get-serial-port-output probe > probe.log
#   hwtest --from probe.log
set -u
serial=${HWTEST_SERIAL:-/dev/ttyS0}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

say() { echo "hwtest: $*" | tee -a "$serial"; }
give_up() { say "$*"; {{if .PowerOff}}poweroff; {{end}}exit 1; }

{{if .From}}# fetch URL FILE; a bucket is read with the VM's own service account.
fetch() {
	case $1 in
	gs://*)
		command -v gcloud >/dev/null && gcloud storage cp "$1" "$2" 2>&1 && return
		token=$(curl -sf -H 'Metadata-Flavor: Google' \
			http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token |
			sed 's/.*"access_token":"\([^"]*\)".*/\1/')
		curl -sfL --retry 5 -H "Authorization: Bearer $token" -o "$2" "https://storage.googleapis.com/${1#gs://}"
		;;
	*) curl -sfL --retry 5 -o "$2" "$1" ;;
	esac
}
fetch {{.From}} "$work/hwtest" || give_up "cannot fetch "{{.From}}
{{else}}base64 -d <<'PROGRAM' | gunzip >"$work/hwtest" || give_up "cannot unpack hwtest"
{{.Embedded}}PROGRAM
{{end}}chmod +x "$work/hwtest" || give_up "cannot make hwtest executable"

# Images without nested virtualization in mind do not load these by themselves.
modprobe kvm_intel 2>/dev/null || modprobe kvm_amd 2>/dev/null || say "no kvm module: was the VM made with --enable-nested-virtualization?"
dmesg -n 1 2>/dev/null # the kernel's lines do not get between the report's

timeout 300 "$work/hwtest" --json >"$work/report.json" 2>"$work/errors" || give_up "it failed: $(head -c 2000 "$work/errors")"
{
	echo "{{.Begin}}"
	cat "$work/report.json"
	echo "{{.End}}"
	"$work/hwtest" --from "$work/report.json"
} >>"$serial"
{{if .PowerOff}}poweroff
{{end}}exit 0
