#include "transfer/error.hpp"

#include <system_error>

namespace transfer {
namespace {

// Unit separator. It is in no number and in no message of this library.
constexpr char kSeparator = '\x1f';

std::string encode(Code code, int status, std::int64_t file, const std::string& context) {
  std::string text = "transfer";
  text += kSeparator;
  text += std::to_string(static_cast<int>(code));
  text += kSeparator;
  text += std::to_string(status);
  text += kSeparator;
  text += std::to_string(file);
  text += kSeparator;
  text += context;
  return text;
}

}  // namespace

Error::Error(Code code, int status, const std::string& context, std::int64_t file)
    : std::runtime_error(encode(code, status, file, context)), code_(code), status_(status) {}

Error io_error(int error_number, const std::string& context, std::int64_t file) {
  return Error(Code::kIo, error_number,
               context + ": " + std::generic_category().message(error_number), file);
}

}  // namespace transfer
