/* Fails chosen calls of the system, with errno as it is set here: loaded into a program with LD_PRELOAD, and told by it what to fail.

   aim(folder)               counts the calls that read or change files under a folder, from 1
   arm(at, error, for_good)  fails call number `at`, or all from there on; 0 fails none
   counted()                 returns how many there were since `arm` */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char under[4096];
static int at, error, for_good, count;

void aim(const char *folder) { snprintf(under, sizeof under, "%s", folder); }
void arm(int number, int code, int always) { at = number; error = code; for_good = always; count = 0; }
int counted(void) { return count; }

static int fails_at(const char *path) {
    if (!under[0] || !path || strncmp(path, under, strlen(under))) return 0;
    count++;
    if (!at || count < at || (count > at && !for_good)) return 0;
    errno = error;
    return 1;
}

static int fails_on(int file) {
    char name[64], path[4096];
    if (!under[0]) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails_at(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define OPEN(name)                                             \
    int name(const char *path, int flags, ...) {               \
        va_list rest;                                          \
        va_start(rest, flags);                                 \
        mode_t mode = va_arg(rest, mode_t);                    \
        va_end(rest);                                          \
        return fails_at(path) ? -1 : REAL(name)(path, flags, mode); \
    }
#define ON_FILE(type, name, parameters, arguments) \
    type name parameters { return fails_on(file) ? -1 : REAL(name) arguments; }
#define ON_PATH(name, parameters, arguments) \
    int name parameters { return fails_at(path) ? -1 : REAL(name) arguments; }

OPEN(open)
OPEN(open64)
ON_FILE(ssize_t, read, (int file, void *data, size_t size), (file, data, size))
ON_FILE(ssize_t, write, (int file, const void *data, size_t size), (file, data, size))
ON_FILE(ssize_t, pread, (int file, void *data, size_t size, off_t from), (file, data, size, from))
ON_FILE(ssize_t, pread64, (int file, void *data, size_t size, off64_t from), (file, data, size, from))
ON_FILE(ssize_t, pwrite, (int file, const void *data, size_t size, off_t from), (file, data, size, from))
ON_FILE(ssize_t, pwrite64, (int file, const void *data, size_t size, off64_t from), (file, data, size, from))
ON_FILE(int, fsync, (int file), (file))
ON_FILE(int, fdatasync, (int file), (file))
ON_FILE(int, ftruncate, (int file, off_t size), (file, size))
ON_FILE(int, ftruncate64, (int file, off64_t size), (file, size))
ON_FILE(int, fchmod, (int file, mode_t mode), (file, mode))
ON_FILE(int, flock, (int file, int operation), (file, operation))
ON_FILE(int, fstat, (int file, struct stat *found), (file, found))
ON_FILE(int, fstat64, (int file, struct stat64 *found), (file, found))
ON_PATH(stat, (const char *path, struct stat *found), (path, found))
ON_PATH(stat64, (const char *path, struct stat64 *found), (path, found))
ON_PATH(lstat, (const char *path, struct stat *found), (path, found))
ON_PATH(lstat64, (const char *path, struct stat64 *found), (path, found))
ON_PATH(rename, (const char *path, const char *to), (path, to))
ON_PATH(unlink, (const char *path), (path))
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
ON_PATH(rmdir, (const char *path), (path))

DIR *opendir(const char *path) { return fails_at(path) ? NULL : REAL(opendir)(path); }

/* One that fails has closed the file nevertheless. */
int close(int file) {
    int fails = fails_on(file), code = errno, result = REAL(close)(file);
    if (!fails) return result;
    errno = code;
    return -1;
}
