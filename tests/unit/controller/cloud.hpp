#pragma once
/// A whole controller without sockets and database: requests in, answers out, the datastore a map. What a request
/// commits goes into the map by the same merge the real one uses.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <deque>
#include <map>
#include <string>

#include "core/base/clock.hpp"
#include "modules/controller/api.hpp"
#include "modules/controller/persist.hpp"

namespace calico::controller {

class TestClock final : public Clock {
 public:
  TimePoint now() const override { return TimePoint(elapsed_); }
  WallTime wall() const override {
    return WallTime(std::chrono::duration_cast<WallTime::duration>(std::chrono::seconds(1767225600) + elapsed_));
  }
  void advance(Duration d) { elapsed_ += d; }

 private:
  Duration elapsed_{std::chrono::hours(1)};
};

struct Answer {
  int status = 0;
  json::value body;
  std::string text;
  std::string error() const {
    const auto* o = body.if_object();
    const auto* e = o ? o->if_contains("NeutronError") : nullptr;
    return e ? std::string(e->at("type").as_string()) : std::string();
  }
  std::string message() const {
    const auto* o = body.if_object();
    const auto* e = o ? o->if_contains("NeutronError") : nullptr;
    return e ? std::string(e->at("message").as_string()) : std::string();
  }
};

class Cloud {
 public:
  explicit Cloud(Projects projects = {}, Caller as = {"p1", true})
      : feedback("no-region", clock),
        translator(state, Region::named(""), std::move(projects)),
        api(state, feedback, translator, clock, generators()),
        caller(std::move(as)) {}

  Answer call(const std::string& method, const std::string& target, const std::string& body = {}) {
    auto mark = target.find('?');
    Request r;
    r.method = method;
    r.path = target.substr(0, mark);
    for (auto rest = mark == std::string::npos ? std::string() : target.substr(mark + 1); !rest.empty();) {
      auto end = rest.find('&');
      auto pair = rest.substr(0, end);
      auto equals = pair.find('=');
      r.query.emplace_back(pair.substr(0, equals), *http::percent_decode(pair.substr(equals + 1), true));
      rest = end == std::string::npos ? std::string() : rest.substr(end + 1);
    }
    r.body = body;
    r.base = "http://127.0.0.1:9696";
    r.caller = caller;
    auto out = api.handle(r);
    keep(out.commit);
    last_rows = out.commit.rows.size();
    for (turns = 1; out.rest; ++turns) {
      if (between_turns) between_turns();
      api.more(out);
    }
    Answer a{out.status, nullptr, out.body};
    if (!out.body.empty()) a.body = json::parse(out.body);
    if (out.status >= 400) {
      EXPECT_TRUE(out.commit.empty()) << "a refused request changes nothing: " << out.body;
    }
    return a;
  }
  Answer get(const std::string& target) { return call("GET", "/v2.0/" + target); }
  Answer post(const std::string& target, const json::value& body) {
    return call("POST", "/v2.0/" + target, json::serialize(body));
  }
  Answer put(const std::string& target, const json::value& body) {
    return call("PUT", "/v2.0/" + target, json::serialize(body));
  }
  Answer del(const std::string& target) { return call("DELETE", "/v2.0/" + target); }
  /// Creates and returns the object; fails the test when refused.
  json::object make(const std::string& one, json::object body) {
    std::string path = one;
    for (char& c : path) c = c == '_' ? '-' : c;
    auto a = post(path + "s", json::object{{one, std::move(body)}});
    EXPECT_EQ(a.status, 201) << one << ": " << a.text;
    return a.status == 201 ? a.body.at(one).as_object() : json::object();
  }
  std::string id(const json::object& o) const { return std::string(o.at("id").as_string()); }
  void agent(const std::string& host) {
    feedback.apply("/calico/felix/v2/no-region/host/" + host + "/status",
                   R"({"time":"2026-01-01T01:00:00Z","uptime":10.5,"first_update":true})");
  }
  const json::object& value(const std::string& key) {
    parsed_ = json::parse(kv.at(key)).as_object();
    return parsed_;
  }

  TestClock clock;
  State state;
  Feedback feedback;
  Translator translator;
  Api api;
  Caller caller;
  std::map<std::string, std::string> kv;
  std::vector<std::string> written;  ///< keys put or deleted, in order
  std::size_t last_rows = 0;
  int turns = 0;                        ///< of the loop, that the last answer took
  std::function<void()> between_turns;  ///< what others do meanwhile
  std::deque<std::string> next_ids;     ///< ids for the next resources, before random ones

  void keep(const Commit& commit) {
    for (const auto& prefix : commit.removed_prefixes)
      std::erase_if(kv, [&](const auto& kv_pair) { return kv_pair.first.starts_with(prefix); });
    for (const auto& intent : commit.intents) {
      auto it = kv.find(intent.key);
      if (!intent.desired) {
        if (it != kv.end()) {
          kv.erase(it);
          written.push_back(intent.key);
        }
        continue;
      }
      if (intent.once && it != kv.end()) continue;
      std::optional<std::string_view> existing;
      if (it != kv.end()) existing = it->second;
      auto value = merge(intent, existing, [this] {
        ++stamps_;
        return Stamp{rfc3339(1767225600 + stamps_), "uid-" + std::to_string(stamps_)};
      });
      if (!value) continue;
      kv[intent.key] = *value;
      written.push_back(intent.key);
    }
  }

 private:
  Generators generators() {
    auto random = Generators::random();
    return {[this, uuid = random.uuid] {
              if (next_ids.empty()) return uuid();
              auto id = next_ids.front();
              next_ids.pop_front();
              return id.empty() ? uuid() : id;
            },
            random.mac};
  }
  int stamps_ = 0;
  json::object parsed_;
};

}  // namespace calico::controller
