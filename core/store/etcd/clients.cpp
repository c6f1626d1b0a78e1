#include "core/store/etcd/clients.hpp"

#include <fmt/format.h>

#include <unordered_set>

namespace calico::store::etcd {
namespace {

constexpr std::size_t kSmall = 64 * 1024;

constexpr std::size_t index_of(Holds what) { return static_cast<std::size_t>(what); }

}  // namespace

std::string client_name(const http::Peer& peer) {
  if (!peer.identity().empty()) return fmt::format("cn={}", peer.identity());
  if (peer.ip) return peer.ip->to_string();
  return peer.uid ? fmt::format("uid={}", *peer.uid) : std::string("unknown");
}

// ---- Client

Client::Client(std::shared_ptr<Clients> all, std::string name) : all_(std::move(all)), name_(std::move(name)) {}
Client::~Client() { all_->clients_.erase(name_); }

std::optional<Held> Client::take(Holds what, std::size_t amount) {
  const auto& limits = all_->limits_;
  auto& totals = all_->totals_;
  const auto held = held_[index_of(what)];
  const auto fits = [&](std::size_t limit, std::uint64_t& refused) {
    if (held < limit && amount <= limit - held) return true;
    ++refused;
    return false;
  };
  switch (what) {
    case Holds::request:
      if (!fits(limits.requests, totals.refused_requests)) return std::nullopt;
      break;
    case Holds::watch:
      if (!fits(limits.watches, totals.refused_watches)) return std::nullopt;
      break;
    case Holds::byte:
      if (held != 0 && amount > kSmall && !fits(limits.bytes, totals.refused_bytes)) return std::nullopt;
      break;
  }
  return std::optional<Held>(std::in_place, shared_from_this(), what, amount);
}

// ---- Held

Held::Held(std::shared_ptr<Client> client, Holds what, std::size_t amount)
    : client_(std::move(client)), what_(what), amount_(amount) {
  client_->held_[index_of(what_)] += amount_;
  auto& totals = client_->all_->totals_;
  (what_ == Holds::request ? totals.requests : what_ == Holds::watch ? totals.watches : totals.bytes) += amount_;
}

Held::~Held() {
  if (!client_) return;  // moved from
  client_->held_[index_of(what_)] -= amount_;
  auto& totals = client_->all_->totals_;
  (what_ == Holds::request ? totals.requests : what_ == Holds::watch ? totals.watches : totals.bytes) -= amount_;
}

// ---- Clients

std::shared_ptr<Client> Clients::of(const http::Peer& peer) {
  auto name = client_name(peer);
  auto& known = clients_[name];
  if (auto client = known.lock()) return client;
  auto client = std::make_shared<Client>(shared_from_this(), std::move(name));
  known = client;
  return client;
}

ClientStats Clients::stats() const {
  auto s = totals_;
  s.clients = clients_.size();
  s.leases = owners_.size();
  return s;
}

void Clients::granted(LeaseId id, const std::string& client) {
  forget(id);
  owners_[id] = client;
  ++leases_[client];
}

void Clients::forget(LeaseId id) {
  const auto it = owners_.find(id);
  if (it == owners_.end()) return;
  const auto count = leases_.find(it->second);
  if (--count->second == 0) leases_.erase(count);
  owners_.erase(it);
}

const std::string* Clients::owner(LeaseId id) const {
  const auto it = owners_.find(id);
  return it == owners_.end() ? nullptr : &it->second;
}

std::size_t Clients::leases_of(const std::string& client) const {
  const auto it = leases_.find(client);
  return it == leases_.end() ? 0 : it->second;
}

std::vector<LeaseId> Clients::known_leases() const {
  std::vector<LeaseId> all;
  all.reserve(owners_.size());
  for (const auto& [id, client] : owners_) all.push_back(id);
  return all;
}

void Clients::prune(const std::vector<LeaseId>& known, const std::vector<LeaseId>& alive) {
  const std::unordered_set<LeaseId> there(alive.begin(), alive.end());
  for (const auto id : known)
    if (!there.contains(id)) forget(id);
  alive_ = alive.size();
}

bool Clients::tell(const std::string& client) {
  const auto now = std::chrono::steady_clock::now();
  if (told_.size() >= 4096) told_.clear();
  const auto [it, first] = told_.try_emplace(client, now);
  if (!first && now - it->second < std::chrono::minutes(1)) return false;
  it->second = now;
  return true;
}

}  // namespace calico::store::etcd
