#include "core/store/etcd/single.hpp"

#include <algorithm>
#include <array>
#include <boost/json.hpp>

namespace calico::store::etcd {
namespace {

Fault precondition(std::string_view what) { return {412, kFailedPrecondition, fmt::format("etcdserver: {}", what)}; }
tl::unexpected<Fault> no(Fault f) { return tl::unexpected<Fault>(std::move(f)); }

/// Known to etcd and changing something that is not here.
constexpr std::array kChanges{
    "maintenance/defragment", "maintenance/hash", "maintenance/snapshot", "cluster/member/add",
    "election/campaign",      "election/leader",  "election/observe",     "election/proclaim",
    "election/resign",        "lock/lock",        "lock/unlock"};

std::string members_json(const Identity& id, const std::vector<std::string>& urls) {
  namespace json = boost::json;
  json::object member{{"ID", std::to_string(id.member_id)}, {"name", "calico-node"}};
  json::array all(urls.begin(), urls.end());
  if (!all.empty()) member["clientURLs"] = std::move(all);
  auto out = header_json(id, 0);
  out.pop_back();
  return fmt::format(R"({},"members":[{}]}})", out, json::serialize(member));
}

Parsed<std::string> user(std::string_view what, const AdminCall& call, const std::string& header) {
  if (what == "list") return header;
  if (what != "add") return no(precondition("user name not found"));
  if (call.name.empty()) return no({400, kInvalidArgument, "etcdserver: user name is empty"});
  return no(unserved_fault("a user"));
}

Parsed<std::string> role(std::string_view what, const AdminCall& call, const std::string& header) {
  if (what == "list") return header;
  if (what != "add") return no(precondition("role name not found"));
  if (call.name.empty()) return no({400, kInvalidArgument, "etcdserver: role name is empty"});
  return no(unserved_fault("a role"));
}

Parsed<std::string> member(std::string_view what, const AdminCall& call, const Identity& id) {
  if (static_cast<std::uint64_t>(call.id) != id.member_id) return no({404, kNotFound, "etcdserver: member not found"});
  return no(unserved_fault(fmt::format("cluster/member/{}", what)));
}

}  // namespace

std::optional<Parsed<std::string>> single_answer(std::string_view path, std::string_view body, const Identity& id,
                                                 Revision revision, const std::vector<std::string>& urls) {
  const auto below = [&path](std::string_view prefix, std::initializer_list<std::string_view> names) {
    const auto rest = path.starts_with(prefix) ? path.substr(prefix.size()) : std::string_view();
    return std::find(names.begin(), names.end(), rest) != names.end() ? rest : std::string_view();
  };
  const bool change = std::find(kChanges.begin(), kChanges.end(), path) != kChanges.end();
  const auto auth = below("auth/", {"authenticate", "enable", "disable"});
  const auto of_user = below("auth/user/", {"add", "get", "list", "delete", "changepw", "grant", "revoke"});
  const auto of_role = below("auth/role/", {"add", "get", "list", "delete", "grant", "revoke"});
  const auto of_member = below("cluster/member/", {"list", "remove", "update", "promote"});
  const auto other = below("maintenance/", {"alarm", "transfer-leadership"});
  if (!change && auth.empty() && of_user.empty() && of_role.empty() && of_member.empty() && other.empty()) return {};

  auto call = parse_admin(body);
  if (!call) return no(call.error());
  const auto header = header_json(id, revision);
  if (change) return no(unserved_fault(path));
  if (auth == "authenticate") return no(precondition("authentication is not enabled"));
  if (auth == "enable") return no(precondition("root user does not exist"));
  if (auth == "disable") return header;
  if (!of_user.empty()) return user(of_user, *call, header);
  if (!of_role.empty()) return role(of_role, *call, header);
  if (of_member == "list") return members_json(id, urls);
  if (!of_member.empty()) return member(of_member, *call, id);
  if (other == "transfer-leadership") return no(precondition("bad leader transferee"));
  if (call->action == AdminCall::Action::activate) return no(unserved_fault("raising an alarm"));
  return std::string("{}");
}

}  // namespace calico::store::etcd
