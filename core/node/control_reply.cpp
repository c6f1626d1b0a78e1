#include "core/node/control_reply.hpp"

#include <boost/json.hpp>

namespace calico::node {

module::ControlReply error_reply(int status, std::string_view what) {
  return {status, boost::json::serialize(boost::json::object{{"error", what}})};
}

std::string param(const module::ControlRequest& request, const std::string& name) {
  const auto it = request.query.find(name);
  return it == request.query.end() ? std::string() : it->second;
}

}  // namespace calico::node
