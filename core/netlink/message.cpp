#include "core/netlink/message.hpp"

namespace calico::netlink {

void MessageBuilder::append(const void* p, std::size_t n) {
  const auto* b = static_cast<const std::byte*>(p);
  b_.insert(b_.end(), b, b + n);
}

void MessageBuilder::pad() { b_.resize(align4(b_.size())); }

void MessageBuilder::begin(std::uint16_t type, std::uint16_t flags, std::uint32_t seq) {
  message_at_ = b_.size();
  nlmsghdr h{};
  h.nlmsg_type = type;
  h.nlmsg_flags = flags;
  h.nlmsg_seq = seq;
  append(&h, sizeof h);
}

std::size_t MessageBuilder::end() {
  const auto len = static_cast<std::uint32_t>(b_.size() - message_at_);
  std::memcpy(b_.data() + message_at_ + offsetof(nlmsghdr, nlmsg_len), &len, sizeof len);
  return len;
}

void MessageBuilder::attr(std::uint16_t type, View value) {
  const std::size_t len = sizeof(nlattr) + value.size();
  if (len > 0xffff) {
    bad_ = true;
    return;
  }
  const nlattr a{static_cast<std::uint16_t>(len), type};
  append(&a, sizeof a);
  append(value.data(), value.size());
  pad();
}

void MessageBuilder::str(std::uint16_t type, std::string_view s) {
  const std::size_t len = sizeof(nlattr) + s.size() + 1;
  if (len > 0xffff) {
    bad_ = true;
    return;
  }
  const nlattr a{static_cast<std::uint16_t>(len), type};
  append(&a, sizeof a);
  append(s.data(), s.size());
  b_.push_back(std::byte{0});
  pad();
}

MessageBuilder::Nest MessageBuilder::nest(std::uint16_t type) {
  const std::size_t at = b_.size();
  const nlattr a{0, static_cast<std::uint16_t>(type | NLA_F_NESTED)};
  append(&a, sizeof a);
  return {*this, at};
}

std::size_t MessageBuilder::Nest::size() const { return b_ ? b_->b_.size() - at_ - sizeof(nlattr) : 0; }

void MessageBuilder::Nest::close() {
  if (!b_) return;
  const std::size_t len = b_->b_.size() - at_;
  if (len > 0xffff) b_->bad_ = true;
  const auto len16 = static_cast<std::uint16_t>(len);
  std::memcpy(b_->b_.data() + at_, &len16, sizeof len16);
  b_ = nullptr;
}

void MessageBuilder::clear() {
  b_.clear();
  bad_ = false;
}

std::string_view Attr::str() const {
  const std::string_view s(reinterpret_cast<const char*>(data.data()), data.size());
  return s.substr(0, s.find('\0'));
}

void Attrs::Iterator::read() {
  done_ = true;
  if (left_.size() < sizeof(nlattr)) return;
  nlattr a{};
  std::memcpy(&a, left_.data(), sizeof a);
  if (a.nla_len < sizeof a || a.nla_len > left_.size()) return;
  attr_.type = a.nla_type & NLA_TYPE_MASK;
  attr_.data = left_.subspan(sizeof a, a.nla_len - sizeof a);
  left_ = left_.subspan(std::min<std::size_t>(align4(a.nla_len), left_.size()));
  done_ = false;
}

Attr Attrs::find(std::uint16_t type) const {
  for (const Attr& a : *this)
    if (a.type == type) return a;
  return {};
}

}  // namespace calico::netlink
