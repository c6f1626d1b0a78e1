#pragma once
/// Rows of the resources, and the outbox: one table a kind in the controller's state.db, an indexed id and the resource
/// as JSON, and the addresses given out, whose primary key is the last guard against giving one twice. Thread: the
/// functions that take a Db belong to its thread; the others any.
#include <string>

#include "core/store/db.hpp"
#include "modules/controller/outbox.hpp"
#include "modules/controller/state.hpp"

namespace calico::controller {

extern const store::Schema kNeutronSchema;

/// One resource's row: written, or removed when body is empty.
struct Row {
  Kind kind;
  std::string id;
  std::string project;
  std::string body;
  std::vector<std::pair<std::string, std::string>> addresses;  ///< of a port: subnet, address
};

std::string to_row(const Network& n);
std::string to_row(const Subnet& s);
std::string to_row(const Port& p);
std::string to_row(const SecurityGroup& g);
std::string to_row(const Rule& r);

/// The rows of what a request touched, as the resources are in `state` now.
std::vector<Row> rows_of(const State& state, const std::vector<Touched>& touched);

/// Inside the caller's transaction. `sequence` is the number of this write, one more than the last: rows build upon
/// each other, so a write that follows one that was lost is refused (conflict). Errors: those of Db.
[[nodiscard]] Status write_rows(store::Db& db, const std::vector<Row>& rows, std::int64_t sequence);

struct Loaded {
  State state;
  std::int64_t sequence = 0;
  std::vector<Outbox::Item> outbox;
};
/// Everything. Errors: corrupt, naming the row that does not read.
[[nodiscard]] Result<Loaded> load(store::Db& db);

}  // namespace calico::controller
