#include "core/sync/view.hpp"

namespace calico::sync {

std::string_view to_string(Phase p) {
  switch (p) {
    case Phase::waiting:
      return "waiting";
    case Phase::resyncing:
      return "resyncing";
    case Phase::in_sync:
      return "in sync";
    case Phase::refusing:
      return "refusing mass removal";
  }
  return "?";
}

}  // namespace calico::sync
