#include "core/bgp/policy/policy_config.hpp"

#include <algorithm>

#include "core/bgp/policy/policy_text.hpp"

namespace calico::bgp {

ConfiguredFilters ConfiguredFilters::read(const config::Config& c, config::Faults& faults) {
  ConfiguredFilters out;
  const auto fault = [&](const std::string& key, std::string what) {
    faults.push_back({c.where(key), key, std::move(what)});
  };
  for (const auto& name : c.sections("bgp.filter")) {
    const auto key = "bgp.filter." + name + ".";
    Filter f;
    for (const auto n : c.numbers(key + "rule")) {
      const auto at = fmt::format("{}rule.{}", key, n);
      auto rule = parse_rule(c.text(at));
      if (!rule) {
        fault(at, rule.error().what);
        continue;
      }
      for (const auto& change : rule->changes)
        f.sets_next_hop_mode = f.sets_next_hop_mode || std::holds_alternative<NextHopTo>(change);
      f.rules.push_back(std::move(*rule));
    }
    if (c.is_set(key + "default"))
      f.otherwise = c.text(key + "default") == "accept" ? Default::accept : Default::reject;
    out.filters_.emplace(name, std::move(f));
  }

  const auto read_chain = [&](const std::string& key, bool import) {
    const auto names = c.list(key);
    if (names.empty()) return;
    std::vector<PolicyRule> rules;
    std::optional<Default> otherwise;
    for (std::size_t i = 0; i < names.size(); ++i) {
      const auto it = out.filters_.find(names[i]);
      if (it == out.filters_.end()) return fault(key, fmt::format("there is no section [bgp.filter.{}]", names[i]));
      const auto& f = it->second;
      if (import && f.sets_next_hop_mode)
        return fault(key, fmt::format("filter {} sets next_hop self or keep, which is for export only", names[i]));
      if (f.otherwise && i + 1 < names.size())
        return fault(key, fmt::format("filter {} has a default, so {} is never asked", names[i], names[i + 1]));
      rules.insert(rules.end(), f.rules.begin(), f.rules.end());
      otherwise = f.otherwise;
    }
    if (out.chains_.contains(names)) return;
    auto policy = RoutePolicy::compile(std::move(rules), otherwise.value_or(Default::reject));
    if (!policy) return fault(key, policy.error().what);
    out.chains_.emplace(names, PolicyRef(std::move(*policy)));
  };
  for (const char* kind : {"bgp.peer", "bgp.range"})
    for (const auto& name : c.sections(kind))
      for (const bool import : {true, false}) {
        const auto key = fmt::format("{}.{}.{}", kind, name, import ? "import_filter" : "export_filter");
        read_chain(key, import);
        const auto policy = fmt::format("{}.{}.{}", kind, name, import ? "import" : "export");
        if (c.schema().find(policy) && c.is_set(key) && c.text(policy) == "none")
          fault(policy, "none contradicts the filter of this direction; leave one of them out");
      }
  return out;
}

PolicyRef ConfiguredFilters::chain(const config::Config& c, const std::string& key) const {
  const auto it = chains_.find(c.list(key));
  return it == chains_.end() ? PolicyRef() : it->second;
}

}  // namespace calico::bgp
