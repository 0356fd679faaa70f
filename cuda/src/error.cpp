#include "transfer/error.hpp"

#include <system_error>

namespace phi3::transfer {
namespace {

// The unit separator. No number and no message of this library contains it.
constexpr char kSeparator = '\x1f';

std::string encode(Code code, int status, const ErrorSite& site, const std::string& context) {
  std::string text = "transfer";
  for (const std::int64_t number : {static_cast<std::int64_t>(code), std::int64_t{status},
                                    site.source, site.operation, site.lane}) {
    text += kSeparator;
    text += std::to_string(number);
  }
  text += kSeparator;
  text += context;
  return text;
}

std::int64_t known(std::int64_t first, std::int64_t second) {
  return first != kUnknown ? first : second;
}

}  // namespace

Error::Error(Code code, int status, const std::string& context, const ErrorSite& site)
    : std::runtime_error(encode(code, status, site, context)),
      code_(code),
      status_(status),
      site_(site) {}

Error Error::at(const ErrorSite& site) const {
  std::string context = what();
  // The message of a source may contain separators, too.
  for (int field = 0; field < 6; ++field) context.erase(0, context.find(kSeparator) + 1);
  return Error(code_, status_, context,
               {known(site_.source, site.source), known(site_.operation, site.operation),
                known(site_.lane, site.lane)});
}

Error io_error(int error_number, const std::string& context, const ErrorSite& site) {
  return Error(Code::kIo, error_number,
               context + ": " + std::generic_category().message(error_number) + " (os error " +
                   std::to_string(error_number) + ")",
               site);
}

}  // namespace phi3::transfer
