#!/bin/sh
# Man pages out of what the program says of itself: man.sh CALICO-NODE MODULES OUTPUT-DIR. One source, so that a page
# cannot say anything else than --help.
set -eu
node=$1 modules=$2 out=$3
export LC_ALL=C.UTF-8
mkdir -p "$out"
version=$("$node" --version | cut -d' ' -f2)
stamp=${SOURCE_DATE_EPOCH:+$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%d)}

# Text as it is: backslashes and leading dots mean something to roff.
verbatim() { sed -e 's/\\/\\e/g' -e "s/^[.']/\\\\\&&/" -e 's/-/\\-/g'; }
page() { # NAME SECTION "one line" < body
  {
    printf '.TH %s %s "%s" "calico-node %s" "calico-node"\n.SH NAME\n%s \\- %s\n.SH DESCRIPTION\n.nf\n' \
      "$(echo "$1" | tr '[:lower:]' '[:upper:]')" "$2" "$stamp" "$version" "$1" "$(echo "$3" | verbatim)"
    verbatim
    printf '.fi\n.SH SEE ALSO\n.BR calico\\-node (8),\n.BR calico\\-node.conf (5)\n'
  } | gzip -n9 >"$out/$1.$2.gz"
}

"$node" --modules "$modules" help | page calico-node 8 "one host's part of a Calico cloud"
"$node" --modules "$modules" help | sed -n '/^commands/,/^roles/s/^  \([a-z][a-z-]*\)  *\(.*\)/\1 \2/p' |
  while read -r command line; do
    [ "$command" = help ] && continue
    "$node" --modules "$modules" "$command" --help </dev/null 2>&1 | page "calico-node-$command" 8 "$line"
  done
{
  cat <<'TEXT'
/etc/calico-node/calico-node.conf, then /etc/calico-node/conf.d/*.conf in order, then the environment
(CALICO_NODE_SECTION_KEY), then --set section.key=value; upstream's felix.cfg lies below all of them. Keys carry no
unit, values do (90s, 64MiB). ';' or '#' begins a comment at the start of a line or after white space.
`calico-node role installed --check` proves it, `--print-config` shows what is used and where it came from.

TEXT
  "$node" --modules "$modules" role controller --help-config
} | page calico-node.conf 5 "configuration of calico-node"
