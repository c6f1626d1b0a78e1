#pragma once
/// Which FelixConfiguration resources this node obeys: `default`, over it the one whose nodeSelector matches the labels
/// of our Node, over that `node.<name>`. Of several that match, the oldest counts (upstream's rule: a new one must not
/// take a working node along), by name when they are equally old or do not say. Pure.
///
///   Configurations felix("compute-1");
///   felix.update("default", json);              // true: look again
///   felix.set_labels(labels_of_our_node);
///   const auto config = felix.over(files, ignored);
///
/// Thread: one at a time. Owns: the resources' values. Errors: update(): invalid; the former value stays.
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.hpp"
#include "core/config/config.hpp"
#include "core/model/resources.hpp"
#include "core/model/selector.hpp"

namespace calico::felix {

class Configurations {
 public:
  explicit Configurations(std::string node) : own_("node." + std::move(node)) {}

  /// Returns whether what is obeyed may be another now.
  [[nodiscard]] Result<bool> update(std::string_view name, std::optional<std::string_view> json);
  [[nodiscard]] bool set_labels(model::Labels labels);
  /// `config` with the values between its defaults and its files; what cannot be obeyed is told in `ignored`.
  [[nodiscard]] config::Config over(const config::Config& config, std::vector<std::string>& ignored) const;

 private:
  using Values = std::map<std::string, std::string>;
  struct Scoped {
    model::Selector selector;
    std::string fault;  // of the selector: it matches nobody
    std::string made;   // creationTimestamp
    Values values;
  };
  const std::string own_;
  Values default_, node_;
  std::map<std::string, Scoped> scoped_;
  model::Labels labels_;
};

}  // namespace calico::felix
