#pragma once
/// What etcd answers about users, alarms and members when it has none of the first two and is alone: the paths auth/*,
/// cluster/* and maintenance/* of the gateway that are not worth more. Whoever only looks, or switches off what is off,
/// gets etcd's very answer; whoever wants to change something (a user, a member, an alarm) hears that it is not served.
///
/// Thread: any, pure.
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/store/etcd/json.hpp"

namespace calico::store::etcd {

/// `path` below /v3/; nullopt: etcd has no such path, or it is answered elsewhere. `urls`: where this member is served.
[[nodiscard]] std::optional<Parsed<std::string>> single_answer(std::string_view path, std::string_view body,
                                                               const Identity& id, Revision revision,
                                                               const std::vector<std::string>& urls);

}  // namespace calico::store::etcd
