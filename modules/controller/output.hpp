#pragma once
/// Resources as Neutron's JSON: which attributes there are, who sees them, and lists with filters, fields, sorting and
/// pages. Only what a request asks about is built, so that a filter over many ports stays cheap.
/// Thread: the api loop.
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/http/message.hpp"
#include "modules/controller/feedback.hpp"
#include "modules/controller/input.hpp"
#include "modules/controller/state.hpp"

namespace calico::controller {

using http::Query;
std::vector<std::string> values_of(const Query& query, std::string_view key);

struct View {
  const State& state;
  const Feedback& feedback;
  const Caller& caller;
  std::set<std::string, std::less<>> fields;  ///< empty = all
};

json::object show(const Network& n, const View& view);
json::object show(const Subnet& s, const View& view);
json::object show(const Port& p, const View& view);
json::object show(const SecurityGroup& g, const View& view);
json::object show(const Rule& r, const View& view);
json::object show(const Agent& a, const View& view);

/// Neutron's rule of who sees what: the owner, administrators, and everybody what is shared.
bool visible(const Network& n, const View& view);
bool visible(const Subnet& s, const View& view);
bool visible(const Port& p, const View& view);
bool visible(const SecurityGroup& g, const View& view);
bool visible(const Rule& r, const View& view);
bool visible(const Agent& a, const View& view);

/// Items built in one turn of the loop, a millisecond or two; a longer list is made in several.
inline constexpr std::size_t kListTurn = 200;

struct Listing {
  json::array items;
  std::vector<std::string> rest;  ///< ids of what is left to build, in order
  json::array links;              ///< empty without limit
};
/// `base` is the collection's address without query, for the links of pages. Errors: 400.
template <class R>
[[nodiscard]] Reply<Listing> list(const Query& query, View& view, const std::string& base);

}  // namespace calico::controller
