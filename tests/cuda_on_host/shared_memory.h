// The shared memory of one block: its static variables and its dynamic bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace dapt::on_host {

// Where all static shared variables of this binary lie (see __shared__) for the calling thread of
// the operating system.
std::span<std::byte> static_shared_image();

class SharedMemory {
 public:
  // Allocates exactly dynamic_bytes, so that AddressSanitizer sees the first byte beyond them.
  SharedMemory(std::size_t dynamic_bytes, std::span<std::byte> image);

  std::byte* dynamic() const { return dynamic_.get(); }

  // All of it, the dynamic bytes first.
  std::size_t bytes() const { return dynamic_bytes_ + image_.size(); }
  // The place of an address in it, and back. An address of static variables is right for as long as
  // this block or another has the image.
  std::optional<std::size_t> offset_of(const void* address) const;
  std::byte* at(std::size_t offset);

  // A block begins, or ends while others live on: all of it holds the pattern. Before and after,
  // any access to the dynamic bytes is an error where AddressSanitizer watches.
  void begin(std::uint32_t pattern);
  void end(std::uint32_t pattern);

  // Of several blocks that live at once, one at a time has its static variables in the image.
  void move_in();
  void move_out();

  // This block's counterpart of an address in another block's shared memory; null for other
  // addresses. It stays right for as long as the other block runs, because meanwhile this one does
  // not.
  std::byte* counterpart(const void* address, const SharedMemory& other);

 private:
  std::span<std::byte> statics() { return resident_ ? image_ : static_copy_; }

  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte, Free> dynamic_;
  std::size_t dynamic_bytes_;
  std::span<std::byte> image_;
  std::vector<std::byte> static_copy_;
  bool resident_ = false;
};

}  // namespace dapt::on_host
