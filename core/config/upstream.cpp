#include "core/config/upstream.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <optional>

#include "core/config/config.hpp"

namespace calico::config {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (auto& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

/// Plain seconds, also with a fraction, or Go's "1h2m3.5s", "100ms", "10us". Nanoseconds.
std::optional<double> duration_of(std::string_view text) {
  double total = 0;
  bool first = true;
  while (!text.empty()) {
    double n = 0;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n, std::chars_format::fixed);
    if (ec != std::errc{} || !std::isfinite(n) || n < 0) return {};
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    const auto unit = text.substr(0, std::min(text.find_first_of("0123456789."), text.size()));
    text.remove_prefix(unit.size());
    if (unit.empty()) return first && text.empty() ? std::optional(n * 1e9) : std::nullopt;
    static constexpr std::pair<std::string_view, double> kUnits[] = {
        {"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}, {"d", 24 * 3600e9}};
    const auto* u = std::find_if(std::begin(kUnits), std::end(kUnits), [&](const auto& k) { return k.first == unit; });
    if (u == std::end(kUnits)) return {};
    total += n * u->second;
    first = false;
  }
  return first ? std::nullopt : std::optional(total);
}

/// Names are separated by blanks, lower case.
struct Group {
  std::string_view names, why;
};
constexpr Group kUnused[] = {
    {"datastoretype etcdaddr etcdscheme etcdusername etcdpassword",
     "the datastore is etcd v3, named by EtcdEndpoints or [datastore]"},
    {"typhaaddr typhak8snamespace typhak8sservicename typhareadtimeout typhawritetimeout typhacafile typhacertfile "
     "typhakeyfile typhacn typhaurisan",
     "there is no Typha: every node has a mirror of the datastore"},
    {"chaininsertmode iptablesfilterallowaction iptablesmangleallowaction iptablesfilterdenyaction "
     "nftablesfilterallowaction nftablesmangleallowaction nftablesfilterdenyaction iptablesmarkmask nftablesmarkmask "
     "iptablesbackend iptablesrefreshinterval iptablespostwritecheckintervalsecs iptableslocktimeoutsecs "
     "iptableslockfilepath iptableslockprobeintervalmillis iptablesnatoutgoinginterfacefilter nftablesmode "
     "maxipsetsize featuredetectoverride featuregates netlinktimeoutsecs dropactionoverride ignorelooserpf",
     "the tables are felix's own, on nftables, without marks"},
    {"ipsetsrefreshinterval routerefreshinterval interfacerefreshinterval nftablesrefreshinterval "
     "hostinterfacepollinterval periodicresyncinterval startupcleanupdelay",
     "drift is repaired when the kernel tells of it, not by reading all of it again"},
    {"ipipenabled ipinipenabled ipinipmtu ipinipmtuauto vxlanenabled vxlanport vxlanvni vxlanmtu vxlanmtuv6 "
     "wireguardenabled wireguardenabledv6 wireguardlisteningport wireguardlisteningportv6 wireguardinterfacename "
     "wireguardmtu wireguardroutingrulepriority wireguardhostencryptionenabled allowvxlanpacketsfromworkloads "
     "allowipippacketsfromworkloads programclusterroutes routesource routetablerange routetableranges mtuifacepattern",
     "routing is plain, by BGP, without tunnels"},
    {"bpfenabled bpfloglevel bpfdataifacepattern bpfexternalservicemode bpfkubeproxyiptablescleanupenabled "
     "kubenodeportranges kubemasqueradebit xdpenabled xdprefreshinterval genericxdpenabled sidecaraccelerationenabled",
     "there is no BPF dataplane and no Kubernetes here"},
    {"natoutgoingaddress natportrange natoutgoingexclusions", "there is no outgoing NAT"},
    {"logfilepath logseverityfile logseverityscreen logseveritysys logdebugfilenameregex logprefix",
     "the log goes to stderr: --log-level, --log-format"},
    {"usagereportingenabled usagereportinginitialdelaysecs usagereportingintervalsecs clusterguid clustertype "
     "calicoversion",
     "nothing is reported to a vendor"},
    {"gogcthreshold gomemorylimitmb gomaxprocs debugport debughost debugmemoryprofilepath debugcpuprofilepath "
     "debugdisablelogdropping debugsimulatecalcgraphhangafter debugsimulatedataplanehangafter "
     "debugsimulatedataplaneapplydelay debugpanicafter prometheusgometricsenabled prometheusprocessmetricsenabled "
     "prometheuswireguardmetricsenabled",
     "it belongs to Go's runtime"},
    {"prometheusmetricscafile prometheusmetricscertfile prometheusmetricskeyfile prometheusmetricsclientauth",
     "metrics are served without TLS, on loopback unless [metrics] insecure says otherwise"},
    {"reportingttlsecs", "the keys live 90 s, on this node's lease"},
    {"endpointreportingdelaysecs endpointstatuspathprefix", "states are written in batches, to the datastore only"},
    {"ipv6support", "IPv6 is always there"},
    {"ipforwarding", "forwarding is always on"},
    {"removeexternalroutes", "routes to endpoints with our protocol are ours, others are left alone"},
    {"healthtimeoutoverrides", "felix is one loop here, and DataplaneWatchdogTimeout its time-out"},
};

}  // namespace

Result<std::string> from_upstream(const Param& row, std::string_view text) {
  const bool none = lower(text) == "none";
  std::string ours(text);
  switch (row.type) {
    case Type::boolean:
      if (const auto word = lower(text); none)
        ours = "no";
      else if (word == "t" || word == "y")
        ours = "yes";
      else if (word == "f" || word == "n")
        ours = "no";
      break;
    case Type::integer:
      if (none) ours = "0";
      break;
    case Type::duration:
      if (none)
        ours = "0s";
      else if (const auto ns = duration_of(text); ns && *ns < 9e18)
        ours = *ns == std::floor(*ns / 1e9) * 1e9 ? fmt::format("{:.0f}s", *ns / 1e9)
                                                  : fmt::format("{:.0f}ms", std::ceil(*ns / 1e6));
      break;
    case Type::size:
      if (none) ours = "0B";
      break;
    default:
      if (none) ours.clear();
  }
  if (ours.empty()) return ours;
  if (auto ok = check_value(row, ours); !ok) return tl::unexpected(ok.error());
  return ours;
}

std::string unused(std::string_view name) {
  const auto wanted = lower(name);
  for (const auto& g : kUnused)
    for (std::size_t at = 0; at < g.names.size();) {
      const auto end = std::min(g.names.find(' ', at), g.names.size());
      if (lower(g.names.substr(at, end - at)) == wanted) return fmt::format("is not used here: {}", g.why);
      at = end + 1;
    }
  return "is no parameter calico-node knows of";
}

}  // namespace calico::config
