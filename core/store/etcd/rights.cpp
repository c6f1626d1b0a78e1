#include "core/store/etcd/rights.hpp"

#include <algorithm>

namespace calico::store::etcd {
namespace {

constexpr std::string_view kAll = "/calico/";
constexpr std::string_view kFelix = "/calico/felix/v2/";
constexpr std::string_view kFelixHost = "/calico/felix/v1/host/";
constexpr std::string_view kEndpoint = "/endpoint/";
constexpr std::string_view kHost = "/host/";
constexpr std::string_view kNodes = "/calico/resources/v3/projectcalico.org/nodes/";
constexpr std::size_t kNameBytes = 253;  // of a host, RFC 1035 2.3.4

bool letter_or_digit(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

/// A segment of a key that cannot be mistaken for two or for none.
bool host_name(std::string_view s) {
  if (s.empty() || s.size() > kNameBytes || !letter_or_digit(s.front())) return false;
  return std::all_of(s.begin(), s.end(), [](char c) { return letter_or_digit(c) || c == '.' || c == '-' || c == '_'; });
}

/// "no-region" or "region-east1": lower-case letters, digits and dashes.
bool region_string(std::string_view s) {
  return (s == "no-region" || s.starts_with("region-")) && s.size() <= 63 &&
         std::all_of(s.begin(), s.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
}

/// Whether every key of the range begins with `prefix`.
bool below(std::string_view prefix, std::string_view key, std::string_view range_end) {
  if (!key.starts_with(prefix)) return false;
  if (range_end.empty()) return true;
  if (range_end == std::string_view("\0", 1)) return false;
  return range_end > key && range_end <= prefix_end(prefix);
}

/// "/calico/felix/v2/<region>/host/<name>/" or "/calico/felix/v1/host/<name>/endpoint/", when `key` begins with one for
/// this name; else empty.
std::string_view own_prefix(std::string_view key, std::string_view name) {
  if (key.starts_with(kFelixHost)) {
    const auto rest = key.substr(kFelixHost.size());
    const bool own = rest.starts_with(name) && rest.substr(name.size()).starts_with(kEndpoint);
    return own ? key.substr(0, kFelixHost.size() + name.size() + kEndpoint.size()) : std::string_view();
  }
  if (!key.starts_with(kFelix)) return {};
  const auto slash = key.find('/', kFelix.size());
  if (slash == key.npos || !region_string(key.substr(kFelix.size(), slash - kFelix.size()))) return {};
  auto rest = key.substr(slash);
  if (!rest.starts_with(kHost)) return {};
  rest.remove_prefix(kHost.size());
  if (!rest.starts_with(name) || !rest.substr(name.size()).starts_with('/')) return {};
  return key.substr(0, slash + kHost.size() + name.size() + 1);
}

}  // namespace

Rights rights_of(std::string_view identity, std::span<const std::string> admins) {
  Rights r;
  if (identity.empty()) return r;
  if (std::find(admins.begin(), admins.end(), identity) != admins.end())
    r.kind = Rights::Kind::everything;
  else if (host_name(identity))
    r.kind = Rights::Kind::node;
  r.name = identity;
  return r;
}

bool may_read(const Rights& rights, std::string_view key, std::string_view range_end) {
  if (rights.kind == Rights::Kind::everything) return true;
  return rights.kind == Rights::Kind::node && below(kAll, key, range_end);
}

bool may_write(const Rights& rights, std::string_view key, std::string_view range_end) {
  if (rights.kind == Rights::Kind::everything) return true;
  if (rights.kind != Rights::Kind::node) return false;
  if (const auto prefix = own_prefix(key, rights.name); !prefix.empty()) return below(prefix, key, range_end);
  if (!key.starts_with(kNodes) || key.substr(kNodes.size()) != rights.name) return false;
  // [key, key + "\0") holds the one key, too.
  return range_end.empty() ||
         (range_end.size() == key.size() + 1 && range_end.starts_with(key) && range_end.back() == 0);
}

bool may(const Rights& rights, const RangeRequest& request) { return may_read(rights, request.key, request.range_end); }

bool may(const Rights& rights, const PutRequest& request) {
  return may_write(rights, request.key) && (!request.prev_kv || may_read(rights, request.key));
}

bool may(const Rights& rights, const DeleteRequest& request) {
  return may_write(rights, request.key, request.range_end) &&
         (!request.prev_kv || may_read(rights, request.key, request.range_end));
}

bool may(const Rights& rights, const TxnRequest& request) {
  for (const auto& c : request.compare)
    if (!may_read(rights, c.key, c.range_end)) return false;
  for (const auto* branch : {&request.success, &request.failure})
    for (const auto& op : *branch)
      if (!std::visit([&](const auto& o) { return may(rights, o); }, op)) return false;
  return true;
}

}  // namespace calico::store::etcd
