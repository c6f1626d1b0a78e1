#pragma once
/// The commands' side of resource_control.hpp: writes any number of items in batches that fit one transaction each and
/// knows of every item what became of it; reads lists page by page.
///
///   auto report = write_items(ask, items, {.verb = Verb::apply});
///   report.results[i].action      // "created", …, "refused", "not written", "not known"
///
/// Thread: any; blocks. Errors: those of the process; see WriteReport::code for the exit code.
#include <boost/json/object.hpp>
#include <functional>
#include <string>
#include <vector>

#include "core/module/context.hpp"
#include "core/resources/changes.hpp"

namespace calico::node {

/// method, target, body
using Ask = std::function<Result<module::ControlReply>(const std::string&, const std::string&, std::string)>;

struct WriteOptions {
  resources::Verb verb = resources::Verb::apply;
  bool dry_run = false;
  bool skip = false;
};

struct ItemResult {
  std::string action = "not written";
  std::int64_t revision = 0;
  std::string why;
};

struct WriteReport {
  std::vector<ItemResult> results;  ///< one an item, in order
  std::string error;                ///< why it ended early, "" = all is done
  int code = 0;                     ///< exit code
};

/// All is tried dry first: what can be refused is refused before the first write, and a process that is not there is
/// not mistaken for an answer that was lost.
[[nodiscard]] WriteReport write_items(const Ask& ask, const std::vector<resources::Item>& items, WriteOptions options);

/// A failed question as an error with an exit code of CONTRACT.
struct Failure {
  int code = 3;
  std::string what;
};
struct Listed {
  std::vector<boost::json::object> items;
  std::vector<std::string> broken;
  std::int64_t revision = 0;
};
[[nodiscard]] tl::expected<Listed, Failure> list_resources(const Ask& ask, const resources::Kind& kind,
                                                           const std::string& ns);
[[nodiscard]] tl::expected<boost::json::object, Failure> get_resource(const Ask& ask, const resources::Kind& kind,
                                                                      const std::string& ns, const std::string& name);

}  // namespace calico::node
