/* A driver without devices: the part of NVML and CUDA that clinloop asks, answered from a text file (see driver.py).
   One line a device: gpu UUID MINOR TOTAL USED PIDS NAME, followed by its parts: mig UUID INSTANCE COMPUTE PIDS. PIDS: 12,34 or -. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUCCESS 0
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define GPU_IS_LOST 15
#define MOST 32

struct device { int is_mig, parent, number, compute; char uuid[96], name[96], pids[256]; unsigned long long total, used; };
static struct device devices[MOST];
static int count;

static int load(void) {
  FILE *file = fopen(DEVICES, "r");
  char line[512];
  count = 0;
  if (!file) return 9; /* driver not loaded */
  while (count < MOST && fgets(line, sizeof line, file)) {
    struct device *d = &devices[count];
    memset(d, 0, sizeof *d);
    if (sscanf(line, "gpu %95s %d %llu %llu %255s %95[^\n]", d->uuid, &d->number, &d->total, &d->used, d->pids, d->name) == 6) {
      d->parent = count++;
    } else if (sscanf(line, "mig %95s %d %d %255s", d->uuid, &d->number, &d->compute, d->pids) == 4) {
      int parent = count - 1;
      while (parent >= 0 && devices[parent].is_mig) parent--;
      d->is_mig = 1, d->parent = parent;
      snprintf(d->name, sizeof d->name, "%s MIG", devices[parent].name);
      count++;
    }
  }
  fclose(file);
  return SUCCESS;
}

static struct device *whole(unsigned index) {
  for (int i = 0; i < count; i++)
    if (!devices[i].is_mig && index-- == 0) return &devices[i];
  return NULL;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return load(); }
int nvmlInit_v2(void) { return load(); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : code == GPU_IS_LOST ? "GPU is lost" : "Error"; }

int nvmlDeviceGetCount_v2(unsigned *number) {
  for (*number = 0; whole(*number); ++*number);
  return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device) {
  *device = whole(index);
  return !*device ? NOT_FOUND : strncmp((*device)->uuid, "LOST", 4) == 0 ? GPU_IS_LOST : SUCCESS;
}

int nvmlDeviceGetMinorNumber(struct device *d, unsigned *number) { *number = d->number; return SUCCESS; }
int nvmlDeviceGetUUID(struct device *d, char *text, unsigned size) { snprintf(text, size, "%s", d->uuid); return SUCCESS; }
int nvmlDeviceGetName(struct device *d, char *text, unsigned size) { snprintf(text, size, "%s", d->name); return SUCCESS; }

int nvmlDeviceGetMemoryInfo(struct device *d, unsigned long long *memory) { /* total, free, used */
  memory[0] = d->total, memory[1] = d->total - d->used, memory[2] = d->used;
  return SUCCESS;
}

struct process { unsigned pid; unsigned long long memory; unsigned instance, compute; };

int nvmlDeviceGetComputeRunningProcesses_v3(struct device *d, unsigned *number, struct process *found) {
  char text[256], *rest = text;
  unsigned room = *number;
  *number = 0;
  if (strcmp(d->pids, "-") == 0) return SUCCESS;
  strcpy(text, d->pids);
  for (char *word; (word = strtok_r(rest, ",", &rest)); ++*number)
    if (found && *number < room) found[*number] = (struct process){(unsigned)atoi(word), 1 << 20, 0, 0};
  return found && *number <= room ? SUCCESS : INSUFFICIENT_SIZE;
}

static struct device *part(struct device *d, unsigned slot) {
  int at = (int)(d - devices) + 1 + (int)slot;
  return at < count && devices[at].is_mig && devices[at].parent == d - devices ? &devices[at] : NULL;
}

int nvmlDeviceGetMigMode(struct device *d, unsigned *current, unsigned *pending) {
  *current = *pending = part(d, 0) != NULL;
  return *current ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetMaxMigDeviceCount(struct device *d, unsigned *number) { (void)d; *number = 7; return SUCCESS; }
int nvmlDeviceGetMigDeviceHandleByIndex(struct device *d, unsigned slot, struct device **found) {
  return (*found = part(d, slot)) ? SUCCESS : NOT_FOUND;
}
int nvmlDeviceGetGpuInstanceId(struct device *d, unsigned *id) { *id = d->number; return SUCCESS; }
int nvmlDeviceGetComputeInstanceId(struct device *d, unsigned *id) { *id = d->compute; return SUCCESS; }

/* CUDA: whole devices and parts that CUDA_VISIBLE_DEVICES names, all without it; but none whose name says so, as without /dev/nvidia-uvm. */
static int is_visible(struct device *d) {
  const char *names = getenv("CUDA_VISIBLE_DEVICES");
  return !part(d, 0) && !strstr(d->name, "without CUDA") && (!names || strstr(names, d->uuid) != NULL);
}
int cuInit(unsigned flags) { (void)flags; return load(); }
int cuDeviceGetCount(int *number) {
  *number = 0;
  for (int i = 0; i < count; i++) *number += is_visible(&devices[i]);
  return SUCCESS;
}
int cuDeviceGet(int *device, int index) {
  for (int i = 0; i < count; i++)
    if (is_visible(&devices[i]) && index-- == 0) return *device = i, SUCCESS;
  return NOT_FOUND;
}
int cuDeviceGetUuid_v2(unsigned char *bytes, int device) {
  const char *text = strchr(devices[device].uuid, '-') + 1;
  for (int i = 0; i < 16; i++, text += 2) {
    unsigned value;
    if (*text == '-') text++;
    sscanf(text, "%2x", &value);
    bytes[i] = (unsigned char)value;
  }
  return SUCCESS;
}
