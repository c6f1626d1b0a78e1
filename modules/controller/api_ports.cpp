// Ports of the API: addresses, security, binding.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

#include "modules/controller/api.hpp"
#include "modules/controller/ipam.hpp"

namespace calico::controller {

namespace {

constexpr std::size_t kMaxName = 255;
constexpr std::size_t kMaxProfile = 4095;

/// Host names and instance ids become parts of keys and names: what a name may hold, and nothing else.
bool plain(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.' || c == ':';
  });
}

bool endpoint_owner(const Port& p) { return p.owner.starts_with("compute:") || p.owner.starts_with("kuryr:container"); }

struct FixedRequest {
  std::string subnet;  ///< "" = any that contains the address
  std::optional<Ip> ip;
};

}  // namespace

struct Api::PortInput {
  std::optional<std::string> name, description, device, owner, host, vnic_type, profile;
  std::optional<bool> admin_up, port_security;
  std::optional<Mac> mac;
  std::optional<std::vector<FixedRequest>> fixed_ips;
  std::optional<std::vector<AddressPair>> pairs;
  std::optional<std::vector<std::string>> groups;
};

Reply<Api::PortInput> Api::read_port(Body& in) const {
  PortInput out;
  out.name = in.text("name", kMaxName);
  out.description = in.text("description", kMaxName);
  out.admin_up = in.boolean("admin_state_up");
  out.mac = in.mac("mac_address");
  out.device = in.text("device_id", kMaxName);
  out.owner = in.text("device_owner", kMaxName);
  out.port_security = in.boolean("port_security_enabled");
  out.groups = in.uuids("security_groups", kMaxGroupsOfPort);
  out.host = in.text("binding:host_id", kMaxName);
  if (const auto* v = in.any("binding:host_id"); v && v->is_null()) out.host = "";
  if (out.host && !plain(*out.host))
    in.invalid("binding:host_id", shown(json::value(*out.host)) + " is not a host name");
  out.vnic_type = in.text("binding:vnic_type", 64);
  if (const auto* v = in.any("binding:profile")) {
    if (!v->is_object() && !v->is_null()) {
      in.invalid("binding:profile", shown(*v) + " is not an object");
    } else {
      out.profile = v->is_null() ? "{}" : json::serialize(*v);
      if (out.profile->size() > kMaxProfile)
        in.invalid("binding:profile", fmt::format("it is longer than {} bytes", kMaxProfile));
      if (const auto* to = v->is_object() ? v->get_object().if_contains("migrating_to") : nullptr)
        if (!to->is_string() || to->get_string().size() > kMaxName || !plain(std::string_view(to->get_string())))
          in.invalid("binding:profile", "migrating_to: " + shown(*to) + " is not a host name");
    }
  }
  if (auto list = in.objects("fixed_ips", kMaxFixedIps)) {
    out.fixed_ips.emplace();
    for (const auto* o : *list) {
      Caller all{.project = {}, .admin = true};
      Body element(*o, Body::Verb::post, "fixed_ip", all);
      FixedRequest r{element.uuid("subnet_id").value_or(""), element.ip("ip_address")};
      if (r.subnet.empty() && !r.ip) element.invalid("fixed_ips", "an element needs subnet_id or ip_address");
      if (auto fault = element.finish()) in.fail(*fault);
      for (const auto& other : *out.fixed_ips) {
        if (r.ip && other.ip == r.ip)
          in.fail({400, "InvalidInput",
                   fmt::format("Invalid input for operation: Duplicate IP address '{}' in fixed_ips.", *r.ip)});
      }
      out.fixed_ips->push_back(std::move(r));
    }
  }
  if (const auto* v = in.any("fixed_ips"); v && v->is_null()) out.fixed_ips.reset();
  if (auto list = in.objects("allowed_address_pairs", kMaxPairs)) {
    out.pairs.emplace();
    for (const auto* o : *list) {
      Caller all{.project = {}, .admin = true};
      Body element(*o, Body::Verb::post, "allowed_address_pair", all);
      auto text = element.text("ip_address", 64);
      AddressPair pair;
      pair.mac = element.mac("mac_address");
      if (!text) {
        element.fail({400, "AddressPairMissingIP", "AllowedAddressPair must contain ip_address."});
      } else if (auto prefix = parse_cidr(*text, true)) {
        pair.prefix = prefix->masked();
        if (prefix->len == 0)
          element.invalid("allowed_address_pairs", "a prefix of length 0 would route everything to one port");
      } else {
        element.invalid("allowed_address_pairs", shown(json::value(*text)) + " is not a valid IP address or subnet");
      }
      if (auto fault = element.finish()) in.fail(*fault);
      if (std::find(out.pairs->begin(), out.pairs->end(), pair) != out.pairs->end())
        in.fail({400, "DuplicateAddressPairInRequest",
                 fmt::format("Request contains duplicate address pair: ip_address {}.", pair.prefix)});
      out.pairs->push_back(std::move(pair));
    }
  }
  in.read_only({"id", "status", "created_at", "updated_at", "revision_number", "binding:vif_type",
                "binding:vif_details", "resource_request", "qos_network_policy_id"});
  in.admin_only({"binding:host_id", "binding:profile"});
  in.not_provided({"extra_dhcp_opts", "qos_policy_id", "tags", "dns_name", "dns_domain", "numa_affinity_policy",
                   "device_profile", "propagate_uplink_status", "hints"});
  if (auto fault = in.finish()) return tl::unexpected(*fault);
  return out;
}

/// Neutron's default policy: on somebody else's network an address, a MAC or more than that is not the caller's to
/// choose.
Reply<void> Api::allowed(const PortInput& input, const Network& network, const Caller& caller, bool fresh) const {
  if (caller.admin) return {};
  std::string_view rule;
  if (input.owner && input.owner->starts_with("network:")) rule = ":device_owner";
  if (input.pairs) {
    // Calico routes a pair's addresses to the port: only the network's own may be asked for.
    for (const auto& pair : *input.pairs) {
      const auto& ids = state_.subnets_of(network.id);
      bool inside = std::any_of(ids.begin(), ids.end(), [&](const auto& id) {
        const auto& cidr = state_.find<Subnet>(id)->cidr;
        return cidr.family() == pair.prefix.family() && cidr.contains(pair.prefix);
      });
      if (!inside) rule = ":allowed_address_pairs";
    }
  }
  if (network.project != caller.project) {
    bool address = input.fixed_ips && std::any_of(input.fixed_ips->begin(), input.fixed_ips->end(),
                                                  [](const auto& f) { return f.ip.has_value(); });
    if (fresh && !network.shared)
      return refuse(403, "PolicyNotAuthorized", "rule:create_port is disallowed by policy.");
    if (address) rule = ":fixed_ips:ip_address";
    if (input.mac) rule = ":mac_address";
    if (input.port_security) rule = ":port_security_enabled";
    if (input.pairs && !input.pairs->empty()) rule = ":allowed_address_pairs";
  }
  if (!rule.empty())
    return refuse(403, "PolicyNotAuthorized", "rule:{}_port{} is disallowed by policy.", fresh ? "create" : "update",
                  rule);
  return {};
}

/// Gives the port its addresses. `port` is in State while addresses are picked, so that one request cannot pick one
/// twice; on a fault the caller's rollback takes it out again.
Reply<void> Api::place(Change& change, Port& port, const PortInput& input, const std::vector<FixedIp>& old,
                       bool fresh) const {
  std::vector<const Subnet*> subnets;
  for (const auto& id : state_.subnets_of(port.network)) subnets.push_back(state_.find<Subnet>(id));
  std::sort(subnets.begin(), subnets.end(),
            [](const Subnet* a, const Subnet* b) { return std::tie(a->created, a->id) < std::tie(b->created, b->id); });
  auto take = [&](const Subnet& s, const Ip& ip) {
    port.fixed_ips.push_back({s.id, ip});
    change.put(port);
  };
  auto pick = [&](const Subnet& s) {
    auto ip = pick_free(s, *state_.allocations(s.id));
    if (!ip) return false;
    take(s, *ip);
    state_.advance_cursor(s.id, next_ip(*ip));
    return true;
  };

  port.fixed_ips.clear();
  if (!input.fixed_ips && fresh) {
    for (auto family : {Family::v4, Family::v6}) {
      bool any = false;
      bool done = false;
      for (const auto* s : subnets) {
        if (s->cidr.family() != family || s->automatic()) continue;
        any = true;
        if ((done = pick(*s))) break;
      }
      if (any && !done)
        return refuse(409, "IpAddressGenerationFailure", "No more IP addresses available on network {}.", port.network);
    }
  } else {
    std::vector<FixedRequest> wanted = input.fixed_ips.value_or(std::vector<FixedRequest>{});
    if (!input.fixed_ips) {
      for (const auto& f : old) wanted.push_back({f.subnet, f.ip});
    }
    // What the port has and keeps comes first, in its order.
    std::vector<bool> met(wanted.size(), false);
    for (const auto& f : old) {
      std::size_t match = wanted.size();
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        if (met[i] || (!wanted[i].subnet.empty() && wanted[i].subnet != f.subnet)) continue;
        if (wanted[i].ip ? *wanted[i].ip == f.ip : match == wanted.size()) match = i;
        if (wanted[i].ip && *wanted[i].ip == f.ip) break;
      }
      if (match == wanted.size()) continue;
      met[match] = true;
      port.fixed_ips.push_back(f);
    }
    change.put(port);
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      if (met[i]) continue;
      const auto& w = wanted[i];
      const Subnet* subnet = nullptr;
      for (const auto* s : subnets) {
        if (w.subnet.empty() ? s->cidr.family() == w.ip->family() && s->cidr.contains(*w.ip) : s->id == w.subnet)
          subnet = s;
      }
      if (!subnet && !w.subnet.empty())
        return invalid_input("Failed to create port on network {}, because fixed_ips included invalid subnet {}",
                             port.network, w.subnet);
      if (!subnet)
        return refuse(400, "InvalidIpForNetwork",
                      "IP address {} is not a valid IP for any of the subnets on the specified network.", *w.ip);
      if (!w.ip) {
        if (subnet->automatic()) continue;  // comes below
        if (!pick(*subnet))
          return refuse(409, "IpAddressGenerationFailure", "No more IP addresses available for subnet {}.", subnet->id);
        continue;
      }
      if (!valid_host(subnet->cidr, *w.ip))
        return refuse(400, "InvalidIpForSubnet", "IP address {} is not a valid IP for the specified subnet.", *w.ip);
      if (subnet->gateway == w.ip)
        return refuse(400, "InvalidIpForSubnet",
                      "IP address {} is not a valid IP for the specified subnet: it is its gateway.", *w.ip);
      if (subnet->automatic()) {
        if (*w.ip != eui64(subnet->cidr, port.mac))
          return refuse(
              400, "AllocationOnAutoAddressSubnet",
              "IPv6 address {} cannot be directly assigned to a port on subnet {} as the subnet is configured "
              "for automatic addresses.",
              *w.ip, subnet->id);
        continue;  // comes below
      }
      const auto& used = state_.allocations(subnet->id)->used;
      if (used.contains(*w.ip))
        return refuse(409, "IpAddressAlreadyAllocated", "IP address {} already allocated in subnet {}.", *w.ip,
                      subnet->id);
      take(*subnet, *w.ip);
    }
  }
  // Addresses that follow from the MAC are there whether asked for or not.
  if (!port.owner.starts_with("network:")) {
    for (const auto* s : subnets) {
      if (!s->automatic()) continue;
      Ip ip = eui64(s->cidr, port.mac);
      const auto& used = state_.allocations(s->id)->used;
      if (auto it = used.find(ip); it != used.end() && it->second != port.id)
        return refuse(409, "IpAddressAlreadyAllocated", "IP address {} already allocated in subnet {}.", ip, s->id);
      auto mine =
          std::find_if(port.fixed_ips.begin(), port.fixed_ips.end(), [&](const auto& f) { return f.subnet == s->id; });
      if (mine == port.fixed_ips.end()) {
        take(*s, ip);
      } else if (mine->ip != ip) {  // the MAC has changed
        mine->ip = ip;
        change.put(port);
      }
    }
  }
  return {};
}

/// Security groups, port security and address pairs, and how they depend on each other.
Reply<void> Api::secure(Change& change, Port& port, const PortInput& input, bool fresh, const Caller& caller) {
  if (input.port_security) port.port_security = *input.port_security;
  if (input.groups) {
    port.groups = *input.groups;
    auto view = view_of(caller);
    for (const auto& id : port.groups) {
      const auto* group = state_.find<SecurityGroup>(id);
      if (!group || !visible(*group, view))
        return refuse(404, "SecurityGroupNotFound", "Security group {} does not exist.", id);
    }
  }
  if (input.pairs) port.pairs = *input.pairs;
  bool has_ip = !port.fixed_ips.empty();
  if (!port.groups.empty() && (!port.port_security || !has_ip)) {
    if (fresh || input.groups)
      return refuse(400, "PortSecurityAndIPRequiredForSecurityGroups",
                    "Port security must be enabled and port must have an IP address in order to use security groups.");
    return refuse(409, "PortSecurityPortHasSecurityGroup",
                  "Port has security group associated. Cannot disable port security or IP address until security group "
                  "is removed.");
  }
  if (!port.pairs.empty() && !port.port_security)
    return refuse(409, "AddressPairAndPortSecurityRequired",
                  "Port Security must be enabled in order to have allowed address pairs on a port.");
  if (fresh && !input.groups && port.port_security && has_ip) port.groups = {default_group(change, port.project).id};
  return {};
}

void Api::bind(Port& port) const {
  if (port.host.empty())
    port.vif_type = "unbound";
  else if (port.vnic_type == "normal" && feedback_.alive(port.host))
    port.vif_type = "tap";
  else
    port.vif_type = "binding_failed";
}

Reply<std::string> Api::create(Change& change, const json::object& body, const Caller& caller, const Port*) {
  Body in(body, Body::Verb::post, "port", caller);
  in.required({"network_id"});
  auto project = in.project();
  auto network_id = in.uuid("network_id").value_or("");
  auto input = read_port(in);
  if (!input) return tl::unexpected(input.error());
  const auto* network = state_.find<Network>(network_id);
  auto view = view_of(caller);
  if (!network || !visible(*network, view))
    return refuse(404, "NetworkNotFound", "Network {} could not be found.", network_id);
  if (auto r = allowed(*input, *network, caller, true); !r) return tl::unexpected(r.error());

  Port port;
  port.id = generate_.uuid();
  port.project = project.value_or(caller.project);
  port.network = network_id;
  port.name = input->name.value_or("");
  port.description = input->description.value_or("");
  port.admin_up = input->admin_up.value_or(true);
  port.device = input->device.value_or("");
  port.owner = input->owner.value_or("");
  port.host = input->host.value_or("");
  port.vnic_type = input->vnic_type.value_or("normal");
  port.profile = input->profile.value_or("{}");
  port.port_security = network->port_security && !port.owner.starts_with("network:");
  if (endpoint_owner(port) && !plain(port.device))
    return refuse(400, "HTTPBadRequest", "Invalid input for device_id. Reason: {} is not an instance's id.",
                  shown(json::value(port.device)));
  if (input->mac) {
    port.mac = *input->mac;
    if (state_.mac_used(port.network, port.mac))
      return refuse(409, "MacAddressInUse",
                    "Unable to complete operation for network {}. The mac address {} is in use.", port.network,
                    port.mac.to_string());
  } else {
    int tries = 0;
    do {
      if (++tries > 16)
        return refuse(503, "MacAddressGenerationFailure", "Unable to generate unique mac on network {}.", port.network);
      port.mac = generate_.mac();
    } while (state_.mac_used(port.network, port.mac));
  }
  stamp_new(port);
  std::string id = port.id;
  if (auto r = place(change, port, *input, {}, true); !r) return tl::unexpected(r.error());
  if (auto r = secure(change, port, *input, true, caller); !r) return tl::unexpected(r.error());
  bind(port);
  change.put(std::move(port));
  return id;
}

Reply<void> Api::update(Change& change, const Port& old, const json::object& body, const Caller& caller) {
  Body in(body, Body::Verb::put, "port", caller);
  in.project();
  in.read_only({"network_id"});
  auto input = read_port(in);
  if (!input) return tl::unexpected(input.error());
  const auto* network = state_.find<Network>(old.network);
  if (auto r = allowed(*input, *network, caller, false); !r) return r;

  Port port = old;
  if (input->name) port.name = *input->name;
  if (input->description) port.description = *input->description;
  if (input->admin_up) port.admin_up = *input->admin_up;
  if (input->device) port.device = *input->device;
  if (input->owner) port.owner = *input->owner;
  if (input->profile) port.profile = *input->profile;
  if (endpoint_owner(port) && !plain(port.device))
    return refuse(400, "HTTPBadRequest", "Invalid input for device_id. Reason: {} is not an instance's id.",
                  shown(json::value(port.device)));
  if (input->mac && *input->mac != old.mac) {
    if (old.vif_type != "unbound" && old.vif_type != "binding_failed")
      return refuse(
          409, "PortBound",
          "Unable to complete operation on port {}, port is already bound, port type: {}, old_mac {}, new_mac "
          "{}.",
          old.id, old.vif_type, old.mac.to_string(), input->mac->to_string());
    if (state_.mac_used(port.network, *input->mac))
      return refuse(409, "MacAddressInUse",
                    "Unable to complete operation for network {}. The mac address {} is in use.", port.network,
                    input->mac->to_string());
    port.mac = *input->mac;
  }
  if (input->fixed_ips || port.mac != old.mac) {
    if (auto r = place(change, port, *input, old.fixed_ips, false); !r) return r;
  }
  if (auto r = secure(change, port, *input, false, caller); !r) return r;

  if (input->host) port.host = *input->host;
  if (input->vnic_type) port.vnic_type = *input->vnic_type;
  if (port.host != old.host || port.vnic_type != old.vnic_type || old.vif_type == "binding_failed") bind(port);

  put_updated(change, old, std::move(port));
  return {};
}

Reply<void> Api::remove(Change& change, const Port& old, const Caller&) {
  change.erase<Port>(old.id);
  return {};
}

}  // namespace calico::controller
