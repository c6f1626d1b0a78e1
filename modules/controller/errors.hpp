#pragma once
/// Neutron's errors as values: an HTTP status, the exception's type name and a message, which become
/// {"NeutronError": {"type", "message", "detail": ""}}. Type names and statuses are the API's, so that clients which
/// react to them (nova, openstackclient) go on working; the words are ours.
#include <fmt/core.h>

#include <string>
#include <tl/expected.hpp>

namespace calico::controller {

struct ApiError {
  int status = 400;
  std::string type;
  std::string message;
};

template <class T>
using Reply = tl::expected<T, ApiError>;

template <class... Args>
[[nodiscard]] tl::unexpected<ApiError> refuse(int status, std::string type, fmt::format_string<Args...> format,
                                              Args&&... args) {
  return tl::unexpected<ApiError>(ApiError{status, std::move(type), fmt::format(format, std::forward<Args>(args)...)});
}

/// 400 InvalidInput: the values are well formed and do not make sense together.
template <class... Args>
[[nodiscard]] tl::unexpected<ApiError> invalid_input(fmt::format_string<Args...> format, Args&&... args) {
  return refuse(400, "InvalidInput", "Invalid input for operation: {}.",
                fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace calico::controller
