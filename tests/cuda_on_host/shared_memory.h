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

// Where all static shared variables of this binary are (see __shared__), for the calling OS thread.
std::span<std::byte> static_shared_image();

class SharedMemory {
 public:
  // Allocates exactly dynamic_bytes, so that AddressSanitizer notices the first byte beyond.
  SharedMemory(std::size_t dynamic_bytes, std::span<std::byte> image);

  std::byte* dynamic() const { return dynamic_.get(); }

  // The size of all of it; the dynamic bytes come first.
  std::size_t bytes() const { return dynamic_bytes_ + image_.size(); }
  // Converts between an address in it and an offset. The address of a static variable is valid as
  // long as this block or another one occupies the image.
  std::optional<std::size_t> offset_of(const void* address) const;
  std::byte* at(std::size_t offset);

  // Fills everything with the pattern when a block begins, or ends while others live on. Before and
  // after that, AddressSanitizer reports any access to the dynamic bytes.
  void begin(std::uint32_t pattern);
  void end(std::uint32_t pattern);

  // Of several live blocks, one at a time has its static variables in the image.
  void move_in();
  void move_out();

  // This block's counterpart of an address in another block's shared memory; null for other
  // addresses. It stays valid while the other block runs, because this one does not run meanwhile.
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
