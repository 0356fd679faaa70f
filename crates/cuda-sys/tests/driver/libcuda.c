// A driver without GPUs, for tests. VERSION is the CUDA version that it reports; INIT is the result of cuInit().

#include <string.h>

int cuInit(unsigned flags) {
  (void)flags;
  return INIT;
}

int cuDriverGetVersion(int* version) {
  *version = VERSION;
  return 0;
}

static int other(void) { return INIT; }

// The runtime looks up all functions with this one.
int cuGetProcAddress_v2(const char* name, void** function, int version, unsigned long flags, int* found) {
  (void)version, (void)flags;
  *function = (void*)other;
  if (strcmp(name, "cuInit") == 0) *function = (void*)cuInit;
  if (strcmp(name, "cuDriverGetVersion") == 0) *function = (void*)cuDriverGetVersion;
  if (strncmp(name, "cuGetProcAddress", 16) == 0) *function = (void*)cuGetProcAddress_v2;
  if (found != NULL) *found = 0;
  return 0;
}

int cuGetProcAddress(const char* name, void** function, int version, unsigned long flags) {
  return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
