// What others write into the datastore, in any order: felix's compiler makes of it what a compiler without a past makes
// of what is left at the end, its deltas lead there, every name it uses is there, every fault is one line; the
// evaluator reads the same documents.
//
// Input: a line a change, "KEY JSON", or "KEY" alone: deleted; "." alone: calculate now.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "core/model/compiler.hpp"
#include "core/model/evaluate.hpp"

using namespace calico;
using namespace calico::model;

namespace {

void require(bool holds, int line = __builtin_LINE()) {
  if (holds) return;
  std::fprintf(stderr, "the check of line %d does not hold\n", line);
  std::abort();
}

void one_line(std::string_view text) {
  if (text.size() >= 4096) std::fprintf(stderr, "%zu bytes: %.*s\n", text.size(), 200, text.data());
  require(!text.empty() && text.size() < 4096);
  for (const char c : text) require(static_cast<unsigned char>(c) >= 0x20);
}

/// The kernel as the deltas make it, as far as names and elements go.
struct Mirror {
  std::map<std::string, ChainRules> chains;
  std::map<std::string, std::set<Element>> sets;

  void apply(const Ruleset& now, const RulesetDelta& d) {
    for (const auto& n : d.chains) {
      if (const auto it = now.chains.find(n); it != now.chains.end())
        chains[n] = it->second;
      else
        require(chains.erase(n) == 1);
    }
    for (const auto& n : d.sets_gone) require(sets.erase(n) == 1);
    for (const auto& n : d.sets_made) require(sets.try_emplace(n).second);
    for (const auto& [n, e] : d.elements) {
      auto& s = sets.at(n);
      for (const auto& x : e.removed) require(s.erase(x) == 1);
      for (const auto& x : e.added) require(s.insert(x).second);
    }
  }
  void require_equal(const Ruleset& now) const {
    require(chains == now.chains && sets.size() == now.sets.size());
    for (const auto& [n, s] : now.sets) require(sets.at(n) == s.elements);
  }
};

void require_names(const Ruleset& r) {
  const auto set = [&](const std::string& n) { require(n.empty() || r.sets.contains(n)); };
  for (const auto& [name, rules] : r.chains)
    for (const auto& m : rules) {
      require(m.verdict != Verdict::pass);
      for (const auto* side : {&m.src, &m.dst}) {
        for (const auto& n : side->in_sets) set(n);
        for (const auto& n : side->not_in_sets) set(n);
        for (const auto& n : side->not_ip_port_sets) set(n);
        set(side->ip_port_set);
        set(side->port_set);
        set(side->not_port_set);
      }
      if (m.verdict == Verdict::jump || m.verdict == Verdict::go) require(r.chains.contains(m.target));
    }
  for (const auto& [name, s] : r.sets)
    for (const auto& e : s.elements) require(e.chain.empty() || r.chains.contains(e.chain));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > 16 * 1024) return 0;
  const CompilerOptions options{.host = "h", .protected_ports = {22, 179}};
  std::string_view text(reinterpret_cast<const char*>(data), size);
  Compiler compiler(options);
  Mirror kernel;
  const auto calculate = [&] {
    const auto delta = compiler.flush();
    kernel.apply(compiler.ruleset(), delta);
    kernel.require_equal(compiler.ruleset());
  };
  std::map<std::string, std::string, std::less<>> content;
  std::set<std::string>
      with_a_past;  // faulty now and there before: what could be read of it goes on to hold or to close
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    const auto line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line == ".") {
      calculate();
      continue;
    }
    const auto space = line.find(' ');
    const auto key = line.substr(0, space);
    const bool replaced = content.contains(key);
    if (space == line.npos) {
      content.erase(std::string(key));
      compiler.update(key, std::nullopt);
    } else {
      content.insert_or_assign(std::string(key), std::string(line.substr(space + 1)));
      compiler.update(key, line.substr(space + 1));
    }
    if (!compiler.faults().contains(std::string(key)))
      with_a_past.erase(std::string(key));
    else if (replaced)
      with_a_past.emplace(key);
  }
  calculate();
  const auto& r = compiler.ruleset();
  require_names(r);
  for (const auto& [key, what] : compiler.faults()) one_line(what);
  Policies policies;
  for (const auto& [key, value] : content)
    if (const auto read = policies.update(key, value); !read) one_line(read.error().what);
  for (const auto& [key, plan] : r.endpoints) {
    if (!plan.error.empty()) one_line(plan.error);
    for (const auto& n : plan.notes) one_line(n);
    for (const auto& net : plan.nets) {
      const Packet p{.src = net.addr, .dst = net.addr, .dst_port = 80, .icmp = {}};
      (void)judge(policies, key, Direction::ingress, p);
      (void)judge(policies, key, Direction::egress, p);
    }
  }
  for (const auto& [key, plan] : r.hosts) {
    if (!plan.error.empty()) one_line(plan.error);
    for (const auto& n : plan.notes) one_line(n);
  }
  if (!with_a_past.empty()) return 0;
  Compiler fresh(options);
  for (const auto& [key, value] : content) fresh.update(key, value);
  (void)fresh.flush();
  if (const auto a = to_text(r), b = to_text(fresh.ruleset()); a != b) {
    std::fprintf(stderr, "--- with its past\n%s--- without\n%s", a.c_str(), b.c_str());
    require(false);
  }
  return 0;
}
