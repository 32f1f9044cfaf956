/* A stand-in for libnvidia-ml.so.1, for machines without a GPU: NVIDIA's own binding loads it by name and calls it. What there is
 * stands in the file that $STAND_IN_GPUS names, read anew by every call, so that a test can change it:
 *
 *   gpu UUID NAME MAJOR MINOR TOTAL USED     bytes; the name without a blank
 *   part UUID TOTAL USED                     a partition of the last GPU
 *   process PID USED                         on the last GPU
 *   fail CODE                                of the initialisation
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NOT_LOADED = 9 };
typedef struct { char uuid[96], name[96]; int major, minor, gpu, place; unsigned long long total, used; } device;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gi, ci; } process;
typedef struct { unsigned long long total, free, used; } memory;

static device devices[32];
static struct { int gpu; process it; } processes[64];
static int count, running, gpus, failure;

static int look(void) {
  char line[512], *path = getenv("STAND_IN_GPUS");
  FILE *file = path ? fopen(path, "r") : NULL;
  count = running = gpus = failure = 0;
  if (!file) return NOT_LOADED;
  int parts = 0;
  while (fgets(line, sizeof line, file)) {
    device *one = &devices[count];
    memset(one, 0, sizeof *one);
    if (sscanf(line, "gpu %95s %95s %d %d %llu %llu", one->uuid, one->name, &one->major, &one->minor, &one->total, &one->used) == 6) {
      one->gpu = gpus++, one->place = -1, parts = 0, count++;
    } else if (sscanf(line, "part %95s %llu %llu", one->uuid, &one->total, &one->used) == 3) {
      strcpy(one->name, "partition");
      one->gpu = gpus - 1, one->place = parts++, count++;
    } else if (sscanf(line, "process %u %llu", &processes[running].it.pid, &processes[running].it.used) == 2) {
      processes[running++].gpu = gpus - 1;
    } else sscanf(line, "fail %d", &failure);
  }
  fclose(file);
  return failure;
}

/* A handle is a device's place in the file, from 1: the last look's. */
static device *at(void *handle) { look(); size_t n = (size_t)handle; return n && n <= (size_t)count ? &devices[n - 1] : NULL; }
static int find(int gpu, int place, void **handle) {
  look();
  for (int i = 0; i < count; i++)
    if (devices[i].gpu == gpu && devices[i].place == place) return *handle = (void *)(size_t)(i + 1), OK;
  return NOT_FOUND;
}
static int copy(char *to, unsigned int room, const char *what) { return snprintf(to, room, "%s", what) < (int)room ? OK : TOO_SMALL; }

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return look(); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the stand-in"; }
int nvmlDeviceGetCount_v2(unsigned int *to) { look(); *to = gpus; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **to) { return find(index, -1, to); }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **to) {
  look();
  for (int i = 0; i < count; i++)
    if (!strcmp(devices[i].uuid, uuid)) return *to = (void *)(size_t)(i + 1), OK;
  return NOT_FOUND;
}
int nvmlDeviceGetUUID(void *h, char *to, unsigned int room) { device *d = at(h); return d ? copy(to, room, d->uuid) : INVALID; }
int nvmlDeviceGetName(void *h, char *to, unsigned int room) { device *d = at(h); return d ? copy(to, room, d->name) : INVALID; }
int nvmlDeviceGetCudaComputeCapability(void *h, int *major, int *minor) {
  device *d = at(h);
  return d ? *major = d->major, *minor = d->minor, OK : INVALID;
}
int nvmlDeviceGetMemoryInfo(void *h, memory *to) {
  device *d = at(h);
  return d ? *to = (memory){d->total, d->total - d->used, d->used}, OK : INVALID;
}
int nvmlDeviceGetMigMode(void *h, unsigned int *current, unsigned int *pending) {
  device *d = at(h);
  void *part;
  if (!d || find(d->gpu, 0, &part)) return UNSUPPORTED;
  *current = *pending = 1;
  return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(void *h, unsigned int *to) { (void)h; *to = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *h, unsigned int place, void **to) { device *d = at(h); return d ? find(d->gpu, place, to) : INVALID; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned int *room, process *to) {
  device *d = at(h);
  unsigned int n = 0;
  if (!d) return INVALID;
  for (int i = 0; i < running; i++)
    if (processes[i].gpu == d->gpu && n++ < *room && to) to[n - 1] = processes[i].it;
  int fits = n <= *room;
  *room = n;
  return fits ? OK : TOO_SMALL;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *h, unsigned int *room, process *to) { (void)h, (void)room, (void)to; return UNSUPPORTED; }
