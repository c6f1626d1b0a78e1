#include "core/model/keys.hpp"

#include <algorithm>
#include <vector>

namespace calico::model {
namespace {

bool is_alnum(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

std::string doubled(std::string_view part) {
  std::string out;
  for (char c : part) out.append(c == '-' ? 2 : 1, c);
  return out;
}

std::vector<std::string_view> split(std::string_view text, char by) {
  std::vector<std::string_view> parts;
  for (;;) {
    const auto at = text.find(by);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

}  // namespace

std::string region_string(std::string_view region) {
  return region.empty() ? "no-region" : fmt::format("region-{}", region);
}

std::string region_namespace(std::string_view region) {
  return region.empty() ? "openstack" : fmt::format("openstack-region-{}", region);
}

Status check_region(std::string_view region) {
  const auto label = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; };
  if (region.empty()) return {};
  if (region.size() > 46 || !std::all_of(region.begin(), region.end(), label) || region.front() == '-' ||
      region.back() == '-')
    return fail(Errc::invalid, "region '{}': need a DNS label (a-z, 0-9, inner '-') of at most 46 characters",
                shown(region));
  return {};
}

std::string format_wep_name(const WorkloadEndpointName& n) {
  return fmt::format("{}-{}-{}-{}", doubled(n.host), doubled(n.orchestrator), doubled(n.workload), doubled(n.endpoint));
}

Result<WorkloadEndpointName> parse_wep_name(std::string_view name) {
  std::vector<std::string> parts(1);
  for (std::size_t i = 0; i < name.size(); ++i) {
    if (name[i] != '-') {
      parts.back().push_back(name[i]);
    } else if (i + 1 < name.size() && name[i + 1] == '-') {
      parts.back().push_back('-');
      ++i;
    } else {
      parts.emplace_back();
    }
  }
  if (parts.size() != 4 || std::any_of(parts.begin(), parts.end(), [](const auto& p) { return p.empty(); }))
    return fail(Errc::invalid, "endpoint name '{}': need host-orchestrator-workload-endpoint with inner dashes doubled",
                shown(name));
  return WorkloadEndpointName{parts[0], parts[1], parts[2], parts[3]};
}

Result<ResourceKey> parse_resource_key(std::string_view key) {
  if (key.starts_with(kResources)) {
    const auto parts = split(key.substr(kResources.size()), '/');
    // Names go into messages, states and logs: what is no printable ASCII is nobody's.
    const bool printable = std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c <= '~'; });
    const bool ok =
        printable && parts.size() >= 2 && std::none_of(parts.begin(), parts.end(), [](auto p) { return p.empty(); });
    if (ok && parts.size() == 2) return ResourceKey{std::string(parts[0]), {}, std::string(parts[1])};
    if (ok && parts.size() == 3)
      return ResourceKey{std::string(parts[0]), std::string(parts[1]), std::string(parts[2])};
  }
  return fail(Errc::invalid, "'{}' is not a resource key", shown(key));
}

std::string workload_endpoint_key(std::string_view ns, const WorkloadEndpointName& name) {
  return fmt::format("{}{}/{}", kWorkloadEndpoints, ns, format_wep_name(name));
}
std::string network_policy_key(std::string_view ns, std::string_view name) {
  return fmt::format("{}{}/{}", kNetworkPolicies, ns, name);
}
std::string live_migration_key(std::string_view ns, const WorkloadEndpointName& destination) {
  return fmt::format("{}{}/{}", kLiveMigrations, ns, format_wep_name(destination));
}
std::string node_key(std::string_view name) { return fmt::format("{}{}", kNodes, name); }
std::string felix_configuration_key(std::string_view name) { return fmt::format("{}{}", kFelixConfigurations, name); }

std::string subnet_prefix(std::string_view region) {
  return fmt::format("/calico/dhcp/v2/{}/subnet/", region_string(region));
}
std::string subnet_key(std::string_view region, std::string_view subnet_id) {
  return subnet_prefix(region) + std::string(subnet_id);
}

std::string felix_hosts_prefix(std::string_view region) {
  return fmt::format("{}{}/host/", kFelixV2, region_string(region));
}
std::string felix_host_prefix(std::string_view region, std::string_view host) {
  return fmt::format("{}{}/", felix_hosts_prefix(region), host);
}
std::string status_key(std::string_view region, std::string_view host) {
  return felix_host_prefix(region, host) + "status";
}
std::string last_reported_status_key(std::string_view region, std::string_view host) {
  return felix_host_prefix(region, host) + "last_reported_status";
}
std::string endpoint_status_prefix(std::string_view region, std::string_view host) {
  return felix_host_prefix(region, host) + "workload/";
}
std::string endpoint_status_key(std::string_view region, std::string_view ns, const WorkloadEndpointName& name) {
  return fmt::format("{}{}/{}/endpoint/{}", endpoint_status_prefix(region, name.host),
                     escape_segment(name.orchestrator), escape_segment(fmt::format("{}/{}", ns, name.workload)),
                     escape_segment(name.endpoint));
}

std::string host_endpoint_status_prefix(std::string_view host) {
  return fmt::format("/calico/felix/v1/host/{}/endpoint/", escape_segment(host));
}

std::string host_endpoint_status_key(std::string_view host, std::string_view name) {
  return host_endpoint_status_prefix(host) + escape_segment(name);
}

Result<EndpointStatusKey> parse_endpoint_status_key(std::string_view key) {
  auto bad = [&] { return fail(Errc::invalid, "'{}' is not an endpoint status key", shown(key)); };
  if (!key.starts_with(kFelixV2)) return bad();
  const auto p = split(key.substr(kFelixV2.size()), '/');
  if (p.size() != 8 || p[1] != "host" || p[3] != "workload" || p[6] != "endpoint") return bad();
  const auto orchestrator = unescape_segment(p[4]);
  const auto workload = unescape_segment(p[5]);
  const auto endpoint = unescape_segment(p[7]);
  if (!orchestrator || !workload || !endpoint) return bad();
  EndpointStatusKey k{std::string(p[0]), std::string(p[2]), *orchestrator, {}, *workload, *endpoint};
  if (const auto slash = workload->find('/'); slash != std::string::npos) {
    k.ns = workload->substr(0, slash);
    k.workload = workload->substr(slash + 1);
  }
  if (k.region.empty() || k.host.empty() || k.workload.empty() || k.endpoint.empty()) return bad();
  return k;
}

Result<std::string> parse_status_key(std::string_view key) {
  if (key.starts_with(kFelixV2)) {
    const auto p = split(key.substr(kFelixV2.size()), '/');
    if (p.size() == 4 && p[1] == "host" && p[3] == "status" && !p[2].empty()) return std::string(p[2]);
  }
  return fail(Errc::invalid, "'{}' is not an agent status key", shown(key));
}

std::string escape_segment(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '%')
      out += "%25";
    else if (c == '/')
      out += "%2f";
    else
      out.push_back(c);
  }
  return out;
}

Result<std::string> unescape_segment(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    const auto hex = text.substr(i + 1, 2);
    if (hex == "25")
      out.push_back('%');
    else if (hex == "2f" || hex == "2F")
      out.push_back('/');
    else
      return fail(Errc::invalid, "'{}': only %25 and %2f are escapes here", shown(text));
    i += 2;
  }
  return out;
}

std::string interface_of_port(std::string_view port_id) { return fmt::format("tap{}", port_id.substr(0, 11)); }

bool is_interface_name(std::string_view name) {
  return !name.empty() && name.size() <= 15 && name != "." && name != ".." &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return c > 0x20 && c < 0x7f && std::string_view("/:%\"'\\*").find(c) == std::string_view::npos;
         });
}

std::string sanitise_label(std::string_view text, std::size_t max) {
  std::string out;
  for (char c : text.substr(0, max)) out.push_back(is_alnum(c) || c == '-' || c == '_' || c == '.' ? c : '_');
  while (!out.empty() && !is_alnum(out.back())) out.pop_back();
  const auto first = std::find_if(out.begin(), out.end(), is_alnum);
  out.erase(out.begin(), first);
  return out;
}

}  // namespace calico::model
