#include "modules/controller/feedback.hpp"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <ctime>

namespace calico::controller {

namespace json = boost::json;

namespace {

std::optional<json::object> parse_object(std::string_view text) {
  if (text.size() > 64 * 1024) return std::nullopt;
  boost::system::error_code error;
  json::parse_options options;
  options.max_depth = 8;
  json::value v = json::parse({text.data(), text.size()}, error, {}, options);
  if (error || !v.is_object()) return std::nullopt;
  return std::move(v.get_object());
}

std::int64_t wall_seconds(const Clock& clock) {
  return std::chrono::duration_cast<std::chrono::seconds>(clock.wall().time_since_epoch()).count();
}

std::uint64_t fnv(std::string_view text, std::uint64_t h) {
  for (char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return h ^ (h >> 29U);
}

}  // namespace

std::string agent_id(std::string_view host) {
  // A UUID in RFC 9562's version 8 (own scheme): the same host has the same id after every restart.
  auto a = fnv(host, 0xcbf29ce484222325ULL);
  auto b = fnv(host, a ^ 0x9e3779b97f4a7c15ULL);
  return fmt::format("{:08x}-{:04x}-8{:03x}-{:04x}-{:012x}", a >> 32U, (a >> 16U) & 0xFFFFU, a & 0xFFFU,
                     0x8000U | ((b >> 48U) & 0x3FFFU), b & 0xFFFFFFFFFFFFULL);
}

std::string rfc3339(std::int64_t seconds) {
  std::time_t t = seconds;
  std::tm tm{};
  gmtime_r(&t, &tm);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
                     tm.tm_min, tm.tm_sec);
}

std::optional<std::int64_t> parse_rfc3339(std::string_view text) {
  std::string s(text.substr(0, 32));
  std::tm tm{};
  const char* end = strptime(s.c_str(), "%Y-%m-%dT%H:%M:%S", &tm);
  if (!end || (*end != 'Z' && *end != '.')) return std::nullopt;
  return timegm(&tm);
}

Feedback::Feedback(std::string_view region_string, const Clock& clock)
    : prefix_(fmt::format("/calico/felix/v2/{}/host/", region_string)), clock_(clock) {}

std::string Feedback::host_prefix(std::string_view host) const { return fmt::format("{}{}/", prefix_, host); }

void Feedback::reset() {
  agents_.clear();
  statuses_.clear();
  deaf_since_.reset();
  heard_ = true;
}

void Feedback::deafen() {
  if (!deaf_since_) deaf_since_ = clock_.now();
}

std::string Feedback::apply(std::string_view key, std::optional<std::string_view> value) {
  if (!key.starts_with(prefix_)) return {};
  key.remove_prefix(prefix_.size());
  auto slash = key.find('/');
  if (slash == 0 || slash == std::string_view::npos) return {};  // round-trip-check and the like
  std::string host(key.substr(0, slash));
  auto rest = key.substr(slash + 1);

  if (rest == "status" || rest == "last_reported_status") {
    bool live = rest == "status";
    if (!value) {
      // An expired lease is silence, not a message: the agent ages. Both keys gone is an agent removed by intent.
      if (!live) agents_.erase(host);
      return {};
    }
    auto report = parse_object(*value);
    if (!report) return {};
    auto& agent = agents_[host];
    if (agent.id.empty()) agent.id = agent_id(host);
    agent.host = host;
    std::int64_t time = wall_seconds(clock_);
    if (const auto* t = report->if_contains("time"); t && t->is_string()) {
      if (auto parsed = parse_rfc3339(t->get_string())) time = *parsed;
    }
    double uptime = 0;
    if (const auto* u = report->if_contains("uptime")) {
      if (u->is_double()) uptime = u->get_double();
      if (u->is_int64()) uptime = static_cast<double>(u->get_int64());
    }
    if (!(uptime >= 0 && uptime < 1e10)) uptime = 0;
    agent.heartbeat = live ? wall_seconds(clock_) : std::max(agent.heartbeat, time);
    agent.started = agent.heartbeat - static_cast<std::int64_t>(uptime);
    if (live) agent.seen = clock_.now();
    return {};
  }

  // workload/openstack/<workload>/endpoint/<port>
  constexpr std::string_view kWorkload = "workload/openstack/";
  if (!rest.starts_with(kWorkload)) return {};
  rest.remove_prefix(kWorkload.size());
  auto mark = rest.find("/endpoint/");
  if (mark == std::string_view::npos) return {};
  std::string port(rest.substr(mark + 10));
  if (port.empty() || port.find('/') != std::string::npos) return {};
  if (!value) {
    auto it = statuses_.find(port);
    if (it != statuses_.end()) {
      it->second.erase(host);
      if (it->second.empty()) statuses_.erase(it);
    }
    return port;
  }
  std::string word = "down";
  if (auto report = parse_object(*value)) {
    const auto* s = report->if_contains("status");
    if (s && s->is_string() && (s->get_string() == "up" || s->get_string() == "error")) word = s->get_string();
  }
  statuses_[port][host] = std::move(word);
  return port;
}

bool Feedback::alive(const Agent& agent) const {
  return agent.seen && deaf_since_.value_or(clock_.now()) - *agent.seen <= kAgentDownTime;
}

bool Feedback::alive(std::string_view host) const {
  auto it = agents_.find(host);
  if (it == agents_.end()) return deaf_since_ && !heard_;
  return alive(it->second);
}

std::string_view Feedback::status(const Port& port) const {
  if (port.host.empty()) return "DOWN";
  auto it = statuses_.find(port.id);
  if (it == statuses_.end()) return "DOWN";
  auto at = it->second.find(port.host);
  if (at == it->second.end()) return "DOWN";
  return at->second == "up" ? "ACTIVE" : at->second == "error" ? "ERROR" : "DOWN";
}

}  // namespace calico::controller
