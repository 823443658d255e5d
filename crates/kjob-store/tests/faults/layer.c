/*
 * A layer between a program and libc's file calls that makes them fail as disks do, for tests.
 *
 * Put under a process with LD_PRELOAD. It watches files below one directory and leaves all others
 * alone. What to do to which call is in a small control file, mapped into memory, which a test
 * writes while the program runs; it also counts the calls there. Where a journal is named, every
 * change of a file or directory is written down with its bytes, in the order in which it took
 * effect, so that a test can work out what a disk might hold had power been lost at any moment.
 *
 * SQLite's C code and Rust's standard library both come through here; calls go on to the kernel
 * by number, so nothing has to be looked up.
 *
 * Environment: KJOB_FAULTS_DIRECTORY (absolute), KJOB_FAULTS_CONTROL, KJOB_FAULTS_JOURNAL
 * (optional; all outside of the directory).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* The order of layer.rs. */
enum kind {
    CREATE, /* an open that makes a file */
    READ,
    WRITE,
    SYNC,
    SYNC_DIRECTORY,
    TRUNCATE,
    RENAME,
    UNLINK,
    MAKE_DIRECTORY,
    REMOVE_DIRECTORY,
    KINDS
};

enum fault {
    NONE,
    FAIL,  /* nothing is done, and an error told */
    SHORT, /* half is done, and told so */
    TORN,  /* half is done, and an error told */
};

/* Which files, by the end of their names. */
enum class { LOG = 1, INDEX = 2, DATABASE = 4, OTHER = 8 };

/* The control file: 64 words of 8 bytes in the machine's order. */
struct control {
    uint64_t kinds;   /* bits of the kinds that the rule is for */
    uint64_t classes; /* and of the classes of files */
    uint64_t skip;    /* so many such calls pass */
    uint64_t times;   /* then so many are hit */
    uint64_t fault;
    uint64_t error;
    uint64_t seen; /* calls that the rule was for */
    uint64_t hits; /* and those that were hit */
    uint64_t pretend_to_sync;
    uint64_t room_is_limited;
    int64_t room;        /* bytes by which files may still grow; those that go give theirs back */
    uint64_t room_error; /* of a write that finds none */
    uint64_t room_misses;
    uint64_t reserved[3];
    uint64_t calls[16]; /* of each kind, whatever the rule */
    uint64_t injected[16];
    uint64_t rest[16];
};

#define FILES_MAX 65536

struct file {
    char *path; /* NULL for one that is not watched */
    uint64_t handle;
    int is_directory;
    int appends;
};

static struct file files[FILES_MAX];
static struct control unused;
static struct control *control = &unused;
static const char *directory;
static size_t directory_len;
static int journal = -1;
static uint64_t handles;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("KJOB_FAULTS_CONTROL");
    directory = getenv("KJOB_FAULTS_DIRECTORY");
    if (!name || !directory)
        return;
    int fd = syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CLOEXEC, 0);
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || mapped == MAP_FAILED)
        abort(); /* a test that injects nothing proves nothing */
    syscall(SYS_close, fd);
    control = mapped;
    name = getenv("KJOB_FAULTS_JOURNAL");
    if (name) {
        journal = syscall(SYS_openat, AT_FDCWD, name,
                          O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (journal < 0)
            abort();
    }
    directory_len = strlen(directory);
}

/* ---- what is watched ---- */

static int is_watched(const char *path) {
    return directory_len > 0 && strncmp(path, directory, directory_len) == 0 &&
           (path[directory_len] == '/' || path[directory_len] == 0);
}

static struct file *watched(int fd) {
    if (fd < 0 || fd >= FILES_MAX)
        return NULL;
    return __atomic_load_n(&files[fd].path, __ATOMIC_ACQUIRE) ? &files[fd] : NULL;
}

/* The absolute path of a name relative to an open directory; 0 if it is not watched. */
static int resolve(int at, const char *name, char *path, size_t size) {
    if (directory_len == 0 || !name)
        return 0;
    if (name[0] == '/')
        return (size_t)snprintf(path, size, "%s", name) < size && is_watched(path);
    struct file *file = at == AT_FDCWD ? NULL : watched(at);
    return file && (size_t)snprintf(path, size, "%s/%s", file->path, name) < size;
}

static int ends_with(const char *path, const char *end) {
    size_t len = strlen(path), end_len = strlen(end);
    return len >= end_len && strcmp(path + len - end_len, end) == 0;
}

static enum class class_of(const char *path) {
    if (ends_with(path, "-wal"))
        return LOG;
    if (ends_with(path, "-shm"))
        return INDEX;
    return ends_with(path, ".sqlite") ? DATABASE : OTHER;
}

/* What is to happen to this call. With the lock held. */
static enum fault judge(enum kind kind, const char *path) {
    control->calls[kind]++;
    if (!(control->kinds >> kind & 1) || !(control->classes & class_of(path)))
        return NONE;
    uint64_t number = control->seen++;
    if (number < control->skip || number - control->skip >= control->times)
        return NONE;
    if (control->hits++ < 3)
        dprintf(STDERR_FILENO, "layer: hit call %lu, kind %d, of %s\n", number, kind, path);
    control->injected[kind]++;
    errno = (int)control->error;
    return (enum fault)control->fault;
}

/* ---- room ---- */

static off_t size_of(int fd) {
    struct stat stat;
    return fstat(fd, &stat) == 0 ? stat.st_size : 0;
}

/* How much of `len` bytes at `at` has room; with the lock held. */
static size_t fitting(int fd, off_t at, size_t len) {
    off_t growth = at + (off_t)len - size_of(fd);
    off_t room = control->room > 0 ? control->room : 0;
    if (!control->room_is_limited || growth <= room)
        return len;
    control->room_misses++;
    off_t missing = growth - room;
    return missing < (off_t)len ? len - (size_t)missing : 0;
}

/* A file has another size than before. */
static void resized(off_t before, off_t after) { control->room -= after - before; }

/* ---- the journal: a line, and bytes after it ---- */

__attribute__((format(printf, 3, 4))) static void note(const void *data, size_t len,
                                                       const char *format, ...) {
    if (journal < 0)
        return;
    char line[4200];
    va_list values;
    va_start(values, format);
    int line_len = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    struct iovec parts[2] = {{line, (size_t)line_len}, {(void *)data, len}};
    int error = errno;
    if (line_len >= (int)sizeof line ||
        syscall(SYS_writev, journal, parts, 2) != (ssize_t)(line_len + len))
        abort(); /* a journal with gaps proves nothing */
    errno = error;
}

/* ---- opening and closing ---- */

static int open_at(int at, const char *name, int flags, mode_t mode) {
    char path[4096];
    if (!resolve(at, name, path, sizeof path))
        return syscall(SYS_openat, at, name, flags, mode);
    pthread_mutex_lock(&lock);
    int was_there = syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0;
    int creates = flags & O_CREAT && !was_there;
    int fd = -1;
    struct stat before;
    if (!creates || judge(CREATE, path) != FAIL) {
        int is_emptied = flags & O_TRUNC && was_there &&
                         syscall(SYS_newfstatat, AT_FDCWD, path, &before, 0) == 0;
        fd = syscall(SYS_openat, at, name, flags, mode);
        struct stat stat;
        if (fd >= 0 && fd < FILES_MAX && fstat(fd, &stat) == 0) {
            struct file *file = &files[fd];
            file->handle = ++handles;
            file->is_directory = S_ISDIR(stat.st_mode);
            file->appends = (flags & O_APPEND) != 0;
            free(file->path); /* of one that was closed behind our back */
            __atomic_store_n(&file->path, strdup(path), __ATOMIC_RELEASE);
            note(NULL, 0, "open %lu %d %s\n", file->handle, creates != 0, path);
            if (flags & O_TRUNC && was_there)
                note(NULL, 0, "truncate %lu 0\n", file->handle);
            if (is_emptied)
                resized(before.st_size, 0);
        }
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(NAME, AT, ...)                                                                        \
    int NAME(__VA_ARGS__, int flags, ...) {                                                        \
        mode_t mode = 0;                                                                           \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                       \
            va_list values;                                                                        \
            va_start(values, flags);                                                               \
            mode = va_arg(values, mode_t);                                                         \
            va_end(values);                                                                        \
        }                                                                                          \
        return open_at(AT, name, flags, mode);                                                     \
    }
OPEN(open, AT_FDCWD, const char *name)
OPEN(open64, AT_FDCWD, const char *name)
OPEN(openat, at, int at, const char *name)
OPEN(openat64, at, int at, const char *name)

int close(int fd) {
    if (watched(fd)) {
        pthread_mutex_lock(&lock);
        char *path = files[fd].path;
        __atomic_store_n(&files[fd].path, NULL, __ATOMIC_RELEASE);
        free(path);
        pthread_mutex_unlock(&lock);
    }
    return syscall(SYS_close, fd);
}

/* ---- reading ---- */

static ssize_t read_at(int fd, void *buffer, size_t len, off_t offset, int has_offset) {
    struct file *file = watched(fd);
    enum fault fault = NONE;
    if (file) {
        pthread_mutex_lock(&lock);
        fault = judge(READ, file->path);
        pthread_mutex_unlock(&lock);
    }
    if (fault == FAIL)
        return -1;
    if (fault == SHORT && len > 1)
        len /= 2;
    ssize_t done = has_offset ? syscall(SYS_pread64, fd, buffer, len, offset)
                              : syscall(SYS_read, fd, buffer, len);
    return done;
}

ssize_t read(int fd, void *buffer, size_t len) { return read_at(fd, buffer, len, 0, 0); }
ssize_t pread(int fd, void *buffer, size_t len, off_t at) { return read_at(fd, buffer, len, at, 1); }
ssize_t pread64(int fd, void *buffer, size_t len, off_t at) {
    return read_at(fd, buffer, len, at, 1);
}

/* ---- changing files ---- */

static ssize_t write_at(int fd, const void *data, size_t len, off_t offset, int has_offset) {
    if (!watched(fd))
        return has_offset ? syscall(SYS_pwrite64, fd, data, len, offset)
                          : syscall(SYS_write, fd, data, len);
    pthread_mutex_lock(&lock);
    struct file *file = &files[fd];
    enum fault fault = judge(WRITE, file->path);
    int error = errno;
    ssize_t done = -1;
    if (fault != FAIL) {
        off_t at = has_offset    ? offset
                   : file->appends ? syscall(SYS_lseek, fd, 0, SEEK_END)
                                   : syscall(SYS_lseek, fd, 0, SEEK_CUR);
        if ((fault == SHORT || fault == TORN) && len > 1)
            len /= 2;
        off_t before = size_of(fd);
        size_t fits = fitting(fd, at, len);
        if (fits == 0 && len > 0) {
            error = (int)control->room_error;
        } else {
            done = has_offset ? syscall(SYS_pwrite64, fd, data, fits, offset)
                              : syscall(SYS_write, fd, data, fits);
            error = errno;
        }
        resized(before, size_of(fd));
        if (done > 0)
            note(data, (size_t)done, "write %lu %ld %zd\n", file->handle, (long)at, done);
        if (fault == TORN) {
            done = -1;
            error = (int)control->error;
        }
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

ssize_t write(int fd, const void *data, size_t len) { return write_at(fd, data, len, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) {
    return write_at(fd, data, len, at, 1);
}
ssize_t pwrite64(int fd, const void *data, size_t len, off_t at) {
    return write_at(fd, data, len, at, 1);
}

int ftruncate(int fd, off_t len) {
    if (!watched(fd))
        return syscall(SYS_ftruncate, fd, len);
    pthread_mutex_lock(&lock);
    struct file *file = &files[fd];
    int done = -1;
    if (judge(TRUNCATE, file->path) != FAIL) {
        off_t before = size_of(fd);
        done = syscall(SYS_ftruncate, fd, len);
        resized(before, size_of(fd));
        if (done == 0)
            note(NULL, 0, "truncate %lu %ld\n", file->handle, (long)len);
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate64(int fd, off_t len) { return ftruncate(fd, len); }

static int sync_file(int fd, long call) {
    if (!watched(fd))
        return syscall(call, fd);
    pthread_mutex_lock(&lock);
    struct file *file = &files[fd];
    int done = -1;
    if (judge(file->is_directory ? SYNC_DIRECTORY : SYNC, file->path) == FAIL) {
        note(NULL, 0, "unsynced %lu\n", file->handle);
    } else {
        done = control->pretend_to_sync ? 0 : syscall(call, fd);
        if (done == 0)
            note(NULL, 0, "sync %lu\n", file->handle);
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int fsync(int fd) { return sync_file(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }

/* ---- changing directories ---- */

static int rename_at(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    char old[4096], new[4096];
    if (!resolve(from_at, from, old, sizeof old) || !resolve(to_at, to, new, sizeof new))
        return syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (judge(RENAME, new) != FAIL) {
        done = syscall(SYS_renameat2, from_at, from, to_at, to, flags);
        if (done == 0)
            note(NULL, 0, "rename %s\n%s\n", old, new);
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int rename(const char *from, const char *to) { return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_at, const char *from, int to_at, const char *to) {
    return rename_at(from_at, from, to_at, to, 0);
}
int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    return rename_at(from_at, from, to_at, to, flags);
}

int unlinkat(int at, const char *name, int flags) {
    char path[4096];
    if (!resolve(at, name, path, sizeof path))
        return syscall(SYS_unlinkat, at, name, flags);
    int is_directory = flags & AT_REMOVEDIR;
    pthread_mutex_lock(&lock);
    int done = -1;
    if (judge(is_directory ? REMOVE_DIRECTORY : UNLINK, path) != FAIL) {
        struct stat stat;
        int gives_back = !is_directory && syscall(SYS_newfstatat, AT_FDCWD, path, &stat, 0) == 0;
        done = syscall(SYS_unlinkat, at, name, flags);
        if (done == 0 && gives_back)
            resized(stat.st_size, 0);
        if (done == 0)
            note(NULL, 0, "remove %s\n", path);
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int at, const char *name, mode_t mode) {
    char path[4096];
    if (!resolve(at, name, path, sizeof path))
        return syscall(SYS_mkdirat, at, name, mode);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (judge(MAKE_DIRECTORY, path) != FAIL) {
        done = syscall(SYS_mkdirat, at, name, mode);
        if (done == 0)
            note(NULL, 0, "mkdir %s\n", path);
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
