/* A disk that fails on command: preloaded into a process (LD_PRELOAD), steered by tests/torture/shim.py through a
 * shared mapping. It touches only files below one folder.
 *
 * Calls go on to the kernel directly (syscall(2)) where that is simple, else to libc (dlsym). Memory maps are
 * not seen: SQLite maps only its -shm file, which need not survive anything.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { FULL = 1, FSYNC = 2, READ_ONLY = 3, HANG = 4 };
enum { WRITE = 1, TRUNCATE, SYNC, SYNC_FAILED, SYNC_FOLDER, CREATE, RENAME, UNLINK, MKDIR, RMDIR };

struct rule {
  int32_t mode, unused;
  int64_t left; /* FULL: bytes that still fit; FSYNC: failures to come, -1: all */
  int64_t hits; /* how often it struck */
  char glob[232];
};

struct control {
  int64_t capacity, used; /* bytes of a small disk; capacity -1: as large as it is */
  struct rule rules[16];
};

#define RULES 16

static struct control *control;
static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void take(void) { pthread_mutex_lock(&lock); }
static void give(void) { pthread_mutex_unlock(&lock); }

__attribute__((constructor)) static void begin(void) {
  const char *file = getenv("EDGE_SHIM_CONTROL"), *folder = getenv("EDGE_SHIM_ROOT"), *log = getenv("EDGE_SHIM_LOG");
  if (!file || !folder) return;
  int fd = syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) return;
  void *at = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  syscall(SYS_close, fd);
  if (at == MAP_FAILED) return;
  root_length = strlen(folder);
  memcpy(root, folder, root_length + 1);
  if (log) log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  pthread_atfork(take, give, give);
  control = at;
}

/* Where a path or descriptor is below the root, "" for the root itself; NULL if elsewhere. */

static const char *below(const char *absolute) {
  if (strncmp(absolute, root, root_length)) return NULL;
  if (absolute[root_length] == '\0') return absolute + root_length;
  return absolute[root_length] == '/' ? absolute + root_length + 1 : NULL;
}

static const char *of_fd(int fd, char *buffer) {
  char link[40];
  if (!control) return NULL;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, buffer, PATH_MAX - 1);
  if (n < 0) return NULL;
  buffer[n] = '\0';
  return below(buffer);
}

static const char *of_path(int folder, const char *path, char *buffer) {
  if (!control || !path) return NULL;
  size_t n = 0;
  if (path[0] != '/') {
    if (folder != AT_FDCWD) {
      char link[40];
      snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
      ssize_t got = syscall(SYS_readlinkat, AT_FDCWD, link, buffer, PATH_MAX - 2);
      if (got < 0) return NULL;
      n = got;
    } else {
      if (syscall(SYS_getcwd, buffer, PATH_MAX - 2) < 0) return NULL;
      n = strlen(buffer);
    }
    if (strcmp(path, ".")) buffer[n++] = '/';
  }
  if (n + strlen(path) >= PATH_MAX) return NULL;
  strcpy(buffer + n, path[0] == '.' && path[1] == '\0' ? "" : path);
  n = strlen(buffer);
  while (n > 1 && buffer[n - 1] == '/') buffer[--n] = '\0';
  return below(buffer);
}

static struct rule *struck(int mode, const char *name) {
  for (int i = 0; name && i < RULES; i++) {
    struct rule *rule = &control->rules[i];
    if (rule->mode == mode && fnmatch(rule->glob, name, 0) == 0) return rule;
  }
  return NULL;
}

static int refused(const char *name) {
  struct rule *rule = struck(READ_ONLY, name);
  if (!rule) return 0;
  rule->hits++;
  errno = EROFS;
  return 1;
}

static void hang(const char *name) {
  int first = 1;
  for (struct rule *rule; (rule = struck(HANG, name)); first = 0) {
    if (first) rule->hits++;
    struct timespec pause = {0, 10 * 1000 * 1000};
    nanosleep(&pause, NULL);
  }
}

/* The log of what was done: a header, two names, data. */

static void record(int op, uint64_t inode, uint64_t offset, const char *name, const char *other, const void *data, uint64_t n) {
  if (log_fd < 0) return;
  struct __attribute__((packed)) { char magic[4]; uint8_t op; uint64_t inode, offset; uint32_t name, other; uint64_t n; } head
      = {"EDGE", op, inode, offset, strlen(name), other ? strlen(other) : 0, n};
  struct iovec parts[4] = {{&head, sizeof head}, {(void *)name, head.name}, {(void *)other, head.other}, {(void *)data, n}};
  int saved = errno;
  if (syscall(SYS_writev, log_fd, parts, 4) != (ssize_t)(sizeof head + head.name + head.other + n)) abort();
  errno = saved;
}

static uint64_t inode_of(int fd) {
  struct stat info;
  return fstat(fd, &info) ? 0 : info.st_ino;
}

static int64_t size_at(int folder, const char *path) {
  struct stat info;
  int saved = errno;
  int bad = fstatat(folder, path, &info, AT_SYMLINK_NOFOLLOW);
  errno = saved;
  return bad || !S_ISREG(info.st_mode) || info.st_nlink != 1 ? 0 : info.st_size;
}

static int open_at(int folder, const char *path, int flags, mode_t mode) {
  char buffer[PATH_MAX];
  const char *name = of_path(folder, path, buffer);
  if (!name) return syscall(SYS_openat, folder, path, flags, mode);
  hang(name);
  if (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) && refused(name)) return -1;
  take();
  int there = syscall(SYS_faccessat, folder, path, F_OK) == 0;
  int64_t size = there && flags & O_TRUNC ? size_at(folder, path) : 0;
  int fd = syscall(SYS_openat, folder, path, flags, mode);
  int saved = errno;
  if (fd >= 0) {
    control->used -= size;
    if (flags & O_CREAT && !there) record(CREATE, inode_of(fd), 0, name, NULL, NULL, 0);
    else if (flags & O_TRUNC) record(TRUNCATE, inode_of(fd), 0, name, NULL, NULL, 0);
  }
  give();
  errno = saved;
  return fd;
}

#define MODE(last) mode_t mode = 0; if (flags & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, last); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return open_at(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return open_at(folder, path, flags, mode); }
int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __openat_2(int folder, const char *path, int flags) { return open_at(folder, path, flags, 0); }
int __openat64_2(int folder, const char *path, int flags) { return open_at(folder, path, flags, 0); }

/* How many of n bytes the disk takes; `growth` of them need new space. */
static size_t room(const char *name, size_t n, int64_t growth) {
  struct rule *rule = struck(FULL, name);
  if (rule) {
    if (rule->left < (int64_t)n) { rule->hits++; n = rule->left > 0 ? rule->left : 0; }
    rule->left -= n;
  }
  if (control->capacity >= 0 && growth > 0) {
    int64_t lacking = control->used + growth - control->capacity;
    if (lacking > 0) n = lacking < (int64_t)n ? n - lacking : 0;
  }
  return n;
}

static ssize_t write_at(int fd, const void *data, size_t n, int64_t at) {
  char buffer[PATH_MAX];
  const char *name = of_fd(fd, buffer);
  if (!name) return at < 0 ? syscall(SYS_write, fd, data, n) : syscall(SYS_pwrite64, fd, data, n, at);
  if (refused(name)) return -1;
  take();
  struct stat info;
  int64_t offset = at, growth = 0;
  if (fstat(fd, &info)) info.st_size = 0, info.st_ino = 0;
  if (at < 0) offset = fcntl(fd, F_GETFL) & O_APPEND ? info.st_size : syscall(SYS_lseek, fd, 0, SEEK_CUR);
  growth = offset + (int64_t)n - info.st_size;
  size_t fits = room(name, n, growth);
  ssize_t done = -1;
  if (fits == 0 && n > 0) errno = ENOSPC;
  else done = at < 0 ? syscall(SYS_write, fd, data, fits) : syscall(SYS_pwrite64, fd, data, fits, at);
  if (done > 0) {
    int64_t grown = offset + done - info.st_size;
    if (grown > 0) control->used += grown;
    record(WRITE, info.st_ino, offset, name, NULL, data, done);
  }
  give();
  return done;
}

ssize_t write(int fd, const void *data, size_t n) { return write_at(fd, data, n, -1); }
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return write_at(fd, data, n, at); }
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) { return write_at(fd, data, n, at); }

static int truncate_to(int fd, int64_t size) {
  char buffer[PATH_MAX];
  const char *name = of_fd(fd, buffer);
  if (!name) return syscall(SYS_ftruncate, fd, size);
  if (refused(name)) return -1;
  take();
  struct stat info;
  int known = fstat(fd, &info) == 0;
  int failed = syscall(SYS_ftruncate, fd, size);
  if (!failed && known) {
    control->used += size - info.st_size;
    record(TRUNCATE, info.st_ino, size, name, NULL, NULL, 0);
  }
  give();
  return failed;
}

int ftruncate(int fd, off_t size) { return truncate_to(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncate_to(fd, size); }

static int sync_fd(int fd, long number) {
  char buffer[PATH_MAX];
  const char *name = of_fd(fd, buffer);
  if (!name) return syscall(number, fd);
  take();
  struct stat info;
  int folder = fstat(fd, &info) == 0 && S_ISDIR(info.st_mode), failed = -1;
  struct rule *rule = struck(FSYNC, name);
  if (rule && rule->left != 0) {
    rule->hits++;
    if (rule->left > 0) rule->left--;
    record(SYNC_FAILED, info.st_ino, 0, name, NULL, NULL, 0);
    errno = EIO;
  } else {
    failed = syscall(number, fd);
    if (!failed) record(folder ? SYNC_FOLDER : SYNC, info.st_ino, 0, name, NULL, NULL, 0);
  }
  give();
  return failed;
}

int fsync(int fd) { return sync_fd(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_fd(fd, SYS_fdatasync); }

static int rename_at(int from_folder, const char *from, int to_folder, const char *to) {
  char buffer[PATH_MAX], other[PATH_MAX];
  const char *name = of_path(from_folder, from, buffer), *target = of_path(to_folder, to, other);
  if (!name || !target) return syscall(SYS_renameat2, from_folder, from, to_folder, to, 0);
  if (refused(name)) return -1;
  take();
  int64_t size = size_at(to_folder, to);
  int failed = syscall(SYS_renameat2, from_folder, from, to_folder, to, 0);
  if (!failed) {
    control->used -= size;
    record(RENAME, 0, 0, name, target, NULL, 0);
  }
  give();
  return failed;
}

int rename(const char *from, const char *to) { return rename_at(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int a, const char *from, int b, const char *to) { return rename_at(a, from, b, to); }

static int unlink_at(int folder, const char *path, int flags) {
  char buffer[PATH_MAX];
  const char *name = of_path(folder, path, buffer);
  if (!name) return syscall(SYS_unlinkat, folder, path, flags);
  if (refused(name)) return -1;
  take();
  int64_t size = flags & AT_REMOVEDIR ? 0 : size_at(folder, path);
  int failed = syscall(SYS_unlinkat, folder, path, flags);
  if (!failed) {
    control->used -= size;
    record(flags & AT_REMOVEDIR ? RMDIR : UNLINK, 0, 0, name, NULL, NULL, 0);
  }
  give();
  return failed;
}

int unlink(const char *path) { return unlink_at(AT_FDCWD, path, 0); }
int unlinkat(int folder, const char *path, int flags) { return unlink_at(folder, path, flags); }
int rmdir(const char *path) { return unlink_at(AT_FDCWD, path, AT_REMOVEDIR); }

static int make_folder(int folder, const char *path, mode_t mode) {
  char buffer[PATH_MAX];
  const char *name = of_path(folder, path, buffer);
  if (name && refused(name)) return -1;
  if (name) take();
  int failed = syscall(SYS_mkdirat, folder, path, mode);
  if (name && !failed) record(MKDIR, 0, 0, name, NULL, NULL, 0);
  if (name) give();
  return failed;
}

int mkdir(const char *path, mode_t mode) { return make_folder(AT_FDCWD, path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { return make_folder(folder, path, mode); }

/* Looking and reading: only the hanging mount and the size of the small disk matter here. */

#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define LOOKED(folder, path) char buffer[PATH_MAX]; hang(of_path(folder, path, buffer))
#define READ(fd) char buffer[PATH_MAX]; hang(of_fd(fd, buffer))

int stat(const char *path, struct stat *info) { NEXT(stat); LOOKED(AT_FDCWD, path); return next(path, info); }
int stat64(const char *path, struct stat64 *info) { NEXT(stat64); LOOKED(AT_FDCWD, path); return next(path, info); }
int lstat(const char *path, struct stat *info) { NEXT(lstat); LOOKED(AT_FDCWD, path); return next(path, info); }
int lstat64(const char *path, struct stat64 *info) { NEXT(lstat64); LOOKED(AT_FDCWD, path); return next(path, info); }
int fstatat64(int folder, const char *restrict path, struct stat64 *restrict info, int flags) {
  NEXT(fstatat64); LOOKED(folder, path); return next(folder, path, info, flags);
}
int statx(int folder, const char *restrict path, int flags, unsigned mask, struct statx *restrict info) {
  NEXT(statx); LOOKED(folder, path); return next(folder, path, flags, mask, info);
}
int access(const char *path, int mode) { NEXT(access); LOOKED(AT_FDCWD, path); return next(path, mode); }
DIR *opendir(const char *path) { NEXT(opendir); LOOKED(AT_FDCWD, path); return next(path); }
FILE *fopen(const char *restrict path, const char *restrict mode) { NEXT(fopen); LOOKED(AT_FDCWD, path); return next(path, mode); }
FILE *fopen64(const char *restrict path, const char *restrict mode) { NEXT(fopen64); LOOKED(AT_FDCWD, path); return next(path, mode); }
struct dirent *readdir(DIR *folder) { NEXT(readdir); READ(dirfd(folder)); return next(folder); }
struct dirent64 *readdir64(DIR *folder) { NEXT(readdir64); READ(dirfd(folder)); return next(folder); }
ssize_t read(int fd, void *data, size_t n) { READ(fd); return syscall(SYS_read, fd, data, n); }
ssize_t pread64(int fd, void *data, size_t n, off64_t at) { READ(fd); return syscall(SYS_pread64, fd, data, n, at); }

static void shrink(struct statvfs *info) {
  uint64_t unit = info->f_frsize ? info->f_frsize : info->f_bsize;
  int64_t left = control->capacity - control->used;
  info->f_blocks = control->capacity / unit;
  info->f_bfree = info->f_bavail = left > 0 ? left / unit : 0;
}

int statvfs(const char *path, struct statvfs *info) {
  NEXT(statvfs);
  LOOKED(AT_FDCWD, path);
  int failed = next(path, info);
  if (!failed && of_path(AT_FDCWD, path, buffer) && control->capacity >= 0) shrink(info);
  return failed;
}

int statvfs64(const char *path, struct statvfs64 *info) { /* the same structure where off_t has 64 bits */
  return statvfs(path, (struct statvfs *)info);
}
