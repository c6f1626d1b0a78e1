#include "modules/controller/outbox.hpp"

#include <boost/json.hpp>

#include "core/model/keys.hpp"

namespace calico::controller {

bool Outbox::Item::keeps_place() const {
  return !prefix && intent.desired && !intent.key.starts_with(model::kWorkloadEndpoints);
}

Status Outbox::write(store::Db& db, const std::vector<Item>& items) {
  for (const auto& item : items) {
    std::optional<std::string> desired;
    if (item.intent.desired) desired = json::serialize(*item.intent.desired);
    if (!item.keeps_place())
      if (auto s = db.run("DELETE FROM neutron_outbox WHERE key = ?1", item.intent.key); !s) return s;
    if (auto s = db.run("INSERT INTO neutron_outbox(key, is_prefix, resource, once, desired, write)"
                        " VALUES(?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT(key) DO UPDATE SET"
                        " is_prefix = ?2, resource = ?3, once = ?4, desired = ?5, write = ?6",
                        item.intent.key, item.prefix, item.intent.resource, item.intent.once, desired, item.write);
        !s)
      return s;
  }
  return {};
}

Status Outbox::forget(store::Db& db, const std::vector<Sent>& sent) {
  for (const auto& [key, write] : sent)
    if (auto s = db.run("DELETE FROM neutron_outbox WHERE key = ?1 AND write = ?2", key, write); !s) return s;
  return {};
}

Result<std::vector<Outbox::Item>> Outbox::load(store::Db& db) {
  std::vector<Item> out;
  auto q = db.query("SELECT key, is_prefix, resource, once, desired, write FROM neutron_outbox ORDER BY place");
  for (;;) {
    auto row = q.next();
    if (!row) return tl::unexpected(row.error());
    if (!*row) return out;
    Item item;
    item.intent.key = std::string(q.text(0));
    item.prefix = q.integer(1) != 0;
    item.intent.resource = q.integer(2) != 0;
    item.intent.once = q.integer(3) != 0;
    item.write = q.integer(5);
    if (!q.is_null(4)) {
      boost::system::error_code ec;
      auto v = json::parse(q.text(4), ec);
      if (ec || !v.is_object())
        return fail(Errc::corrupt, "{}: neutron_outbox has something unreadable for {}", db.path(),
                    shown(item.intent.key, 300));
      item.intent.desired = std::move(v.get_object());
      item.bytes = q.text(4).size();
    }
    out.push_back(std::move(item));
  }
}

void Outbox::replace(std::vector<Item> all) {
  items_.clear();
  places_.clear();
  add(std::move(all));
}

void Outbox::add(std::vector<Item> items) {
  for (auto& item : items) {
    if (item.bytes == 0 && item.intent.desired) item.bytes = json::serialize(*item.intent.desired).size();
    auto [place, fresh] = places_.try_emplace(item.intent.key, next_);
    if (!fresh && !item.keeps_place()) {
      items_.erase(place->second);
      place->second = next_;
      fresh = true;
    }
    if (fresh) ++next_;
    items_.insert_or_assign(place->second, std::move(item));
  }
}

std::vector<Outbox::Item> Outbox::first(std::size_t count) const {
  std::vector<Item> out;
  std::size_t bytes = 0;
  for (auto it = items_.begin(); it != items_.end() && out.size() < count; ++it) {
    bytes += it->second.bytes;
    if (!out.empty() && bytes > kBytes) break;
    out.push_back(it->second);
  }
  return out;
}

void Outbox::done(const std::vector<Sent>& sent) {
  for (const auto& [key, write] : sent) {
    const auto place = places_.find(key);
    if (place == places_.end()) continue;
    const auto item = items_.find(place->second);
    if (item->second.write != write) continue;
    items_.erase(item);
    places_.erase(place);
  }
}

}  // namespace calico::controller
