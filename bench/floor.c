/* What the kernel alone asks for one container that runs `true`: the least any engine could take.
 *
 * floor FOLDER bridge|none|host CYCLES
 *
 * Run as root in a mount and a network namespace of its own (unshare --mount --net). FOLDER/lower is the image.
 * One cycle: a cgroup in every mounted hierarchy, a process in new namespaces (mount, pid, uts, ipc, cgroup,
 * and net unless host), for bridge a veth pair on a bridge with an address and a default route, overlay, /proc,
 * /dev, /sys, masked paths, pivot_root, execve of /bin/true, wait, and all of it removed again. Prints one JSON
 * line per cycle: wall and CPU (its own and its children's) in ms.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <arpa/inet.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(expression) \
    do { \
        if ((long)(expression) < 0) { \
            fprintf(stderr, "floor: line %d: %s: %s\n", __LINE__, #expression, strerror(errno)); \
            exit(1); \
        } \
    } while (0)

enum { MAX_GROUPS = 16, PATH_SIZE = 512 };
static char groups[MAX_GROUPS][PATH_SIZE];
static int group_count;

/* ---- rtnetlink ---- */

struct request {
    struct nlmsghdr header;
    char body[1024];
};

static void *tail(struct request *r) { return (char *)r + NLMSG_ALIGN(r->header.nlmsg_len); }

static void start_request(struct request *r, int type, int flags, const void *fixed, size_t size) {
    memset(r, 0, sizeof *r);
    r->header.nlmsg_type = type;
    r->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    r->header.nlmsg_len = NLMSG_LENGTH(size);
    memcpy(NLMSG_DATA(&r->header), fixed, size);
}

static struct rtattr *attribute(struct request *r, int type, const void *data, size_t size) {
    struct rtattr *a = tail(r);
    a->rta_type = type;
    a->rta_len = RTA_LENGTH(size);
    if (size) memcpy(RTA_DATA(a), data, size);
    r->header.nlmsg_len = NLMSG_ALIGN(r->header.nlmsg_len) + RTA_ALIGN(a->rta_len);
    return a;
}

static void end_nest(struct request *r, struct rtattr *a) { a->rta_len = (char *)tail(r) - (char *)a; }

static void transact(int fd, struct request *r) {
    char answer[4096];
    CHECK(send(fd, r, r->header.nlmsg_len, 0));
    CHECK(recv(fd, answer, sizeof answer, 0));
    struct nlmsghdr *header = (struct nlmsghdr *)answer;
    struct nlmsgerr *error = NLMSG_DATA(header);
    if (header->nlmsg_type == NLMSG_ERROR && error->error) {
        errno = -error->error;
        CHECK(-1);
    }
}

static int rtnetlink(void) {
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    CHECK(fd);
    return fd;
}

static void set_up(int fd, int index) {
    struct request r;
    struct ifinfomsg info = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    start_request(&r, RTM_NEWLINK, 0, &info, sizeof info);
    transact(fd, &r);
}

static void add_address(int fd, int index, const char *address) {
    struct request r;
    struct ifaddrmsg info = {.ifa_family = AF_INET, .ifa_prefixlen = 16, .ifa_index = index};
    struct in_addr ip;
    inet_pton(AF_INET, address, &ip);
    start_request(&r, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &info, sizeof info);
    attribute(&r, IFA_LOCAL, &ip, sizeof ip);
    attribute(&r, IFA_ADDRESS, &ip, sizeof ip);
    transact(fd, &r);
}

static void add_bridge(void) {
    struct request r;
    struct ifinfomsg info = {0};
    int fd = rtnetlink();
    start_request(&r, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &info, sizeof info);
    attribute(&r, IFLA_IFNAME, "floor0", 7);
    struct rtattr *nest = attribute(&r, IFLA_LINKINFO, NULL, 0);
    attribute(&r, IFLA_INFO_KIND, "bridge", 6);
    end_nest(&r, nest);
    transact(fd, &r);
    int index = if_nametoindex("floor0");
    add_address(fd, index, "10.212.0.1");
    set_up(fd, index);
    close(fd);
}

static void add_veth(int fd, int bridge, const char *name, pid_t pid) {
    struct request r;
    struct ifinfomsg info = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}, peer = {0};
    start_request(&r, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &info, sizeof info);
    attribute(&r, IFLA_IFNAME, name, strlen(name) + 1);
    attribute(&r, IFLA_MASTER, &bridge, sizeof bridge);
    struct rtattr *link = attribute(&r, IFLA_LINKINFO, NULL, 0);
    attribute(&r, IFLA_INFO_KIND, "veth", 4);
    struct rtattr *data = attribute(&r, IFLA_INFO_DATA, NULL, 0);
    struct rtattr *other = attribute(&r, VETH_INFO_PEER, &peer, sizeof peer);
    attribute(&r, IFLA_IFNAME, "eth0", 5);
    attribute(&r, IFLA_NET_NS_PID, &pid, sizeof pid);
    end_nest(&r, other);
    end_nest(&r, data);
    end_nest(&r, link);
    transact(fd, &r);
}

static void configure_inside(int veth) {
    int fd = rtnetlink();
    set_up(fd, 1);
    if (veth) {
        int index = if_nametoindex("eth0");
        struct rtmsg route = {.rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT,
                              .rtm_scope = RT_SCOPE_UNIVERSE, .rtm_type = RTN_UNICAST};
        struct request r;
        struct in_addr gateway;
        add_address(fd, index, "10.212.0.2");
        set_up(fd, index);
        inet_pton(AF_INET, "10.212.0.1", &gateway);
        start_request(&r, RTM_NEWROUTE, NLM_F_CREATE, &route, sizeof route);
        attribute(&r, RTA_GATEWAY, &gateway, sizeof gateway);
        transact(fd, &r);
    }
    close(fd);
}

/* ---- cgroups ---- */

static void copy_setting(const char *parent, const char *child, const char *name) {
    char path[PATH_SIZE + 64], value[256];
    snprintf(path, sizeof path, "%s/%s", parent, name);
    int fd = open(path, O_RDONLY);
    if (fd < 0) return;
    ssize_t size = read(fd, value, sizeof value);
    close(fd);
    snprintf(path, sizeof path, "%s/%s", child, name);
    fd = open(path, O_WRONLY);
    CHECK(fd);
    CHECK(write(fd, value, size));
    close(fd);
}

static void find_groups(void) {
    char line[1024];
    FILE *file = fopen("/proc/self/cgroup", "r");
    while (file && fgets(line, sizeof line, file) && group_count < MAX_GROUPS) {
        char *controllers = strchr(line, ':') + 1, *path = strchr(controllers, ':');
        *path++ = 0;
        path[strcspn(path, "\n")] = 0;
        if (!strncmp(controllers, "name=", 5)) controllers += 5;
        char mounted[PATH_SIZE / 2];
        snprintf(mounted, sizeof mounted, "/sys/fs/cgroup%s%s%s", *controllers ? "/" : "", controllers,
                 strcmp(path, "/") ? path : "");
        int is_v2 = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
        if (access(mounted, F_OK) || (!*controllers && !is_v2)) continue;
        if (is_v2) strcpy(mounted, "/sys/fs/cgroup"); /* a group with processes can have no controlled children */
        snprintf(groups[group_count++], PATH_SIZE, "%s/floor-%d", mounted, getpid());
    }
    if (file) fclose(file);
}

static void make_groups(pid_t pid) {
    char path[PATH_SIZE + 64], text[16];
    int size = snprintf(text, sizeof text, "%d", pid);
    for (int i = 0; i < group_count; i++) {
        CHECK(mkdir(groups[i], 0755));
        snprintf(path, sizeof path, "%s/cpuset.cpus", groups[i]);
        if (strstr(groups[i], "/cpuset/")) {
            char parent[PATH_SIZE];
            strcpy(parent, groups[i]);
            *strrchr(parent, '/') = 0;
            copy_setting(parent, groups[i], "cpuset.cpus");
            copy_setting(parent, groups[i], "cpuset.mems");
        }
        snprintf(path, sizeof path, "%s/cgroup.procs", groups[i]);
        int fd = open(path, O_WRONLY);
        CHECK(fd);
        CHECK(write(fd, text, size));
        close(fd);
    }
}

static void remove_groups(void) {
    for (int i = 0; i < group_count; i++) {
        int tries = 0;
        while (rmdir(groups[i]) < 0 && errno == EBUSY && tries++ < 1000) usleep(100);
    }
}

/* ---- the container ---- */

static void make_device(const char *name, int major_number, int minor_number) {
    CHECK(mknod(name, S_IFCHR | 0666, makedev(major_number, minor_number)));
}

static void mount_root(const char *folder) {
    char options[3 * PATH_SIZE];
    CHECK(chdir(folder));
    CHECK(mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    snprintf(options, sizeof options, "lowerdir=lower,upperdir=upper,workdir=work");
    CHECK(mount("overlay", "merged", "overlay", 0, options));
    CHECK(chdir("merged"));
    CHECK(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
    CHECK(mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755,size=65536k"));
    CHECK(mkdir("dev/pts", 0755));
    CHECK(mkdir("dev/shm", 0755));
    CHECK(mkdir("dev/mqueue", 0755));
    CHECK(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"));
    CHECK(mount("shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=65536k"));
    CHECK(mount("mqueue", "dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
    make_device("dev/null", 1, 3);
    make_device("dev/zero", 1, 5);
    make_device("dev/full", 1, 7);
    make_device("dev/random", 1, 8);
    make_device("dev/urandom", 1, 9);
    make_device("dev/tty", 5, 0);
    CHECK(symlink("/proc/self/fd", "dev/fd"));
    CHECK(symlink("pts/ptmx", "dev/ptmx"));
    static const char *read_only[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
    for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++) {
        if (mount(read_only[i], read_only[i], NULL, MS_BIND | MS_REC, NULL) == 0)
            CHECK(mount(NULL, read_only[i], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL));
    }
    static const char *masked[] = {"proc/kcore", "proc/keys", "proc/timer_list"};
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) mount("dev/null", masked[i], NULL, MS_BIND, NULL);
    static const char *hidden[] = {"proc/acpi", "proc/scsi"};
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++) mount("tmpfs", hidden[i], "tmpfs", MS_RDONLY, NULL);
}

static void enter_root(int own_network) {
    if (own_network) CHECK(mount("sysfs", "sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL));
    else CHECK(mount("/sys", "sys", NULL, MS_BIND | MS_REC, NULL));
    CHECK(syscall(SYS_pivot_root, ".", "."));
    CHECK(umount2(".", MNT_DETACH));
    CHECK(chdir("/"));
    CHECK(sethostname("floor", 5));
}

static void make_folders(const char *folder) {
    CHECK(chdir(folder));
    CHECK(mkdir("upper", 0755));
    CHECK(mkdir("work", 0755));
    CHECK(mkdir("merged", 0755));
}

static void remove_folders(void) {
    rmdir("work/work");
    CHECK(rmdir("work"));
    CHECK(rmdir("merged"));
    CHECK(rmdir("upper"));
}

static double seconds(struct timeval t) { return t.tv_sec + t.tv_usec / 1e6; }

static double cpu_s(void) {
    struct rusage own, children;
    getrusage(RUSAGE_SELF, &own);
    getrusage(RUSAGE_CHILDREN, &children);
    return seconds(own.ru_utime) + seconds(own.ru_stime) + seconds(children.ru_utime) + seconds(children.ru_stime);
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void cycle(const char *folder, const char *network, int bridge) {
    int gate[2], flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP;
    int own_network = strcmp(network, "host") != 0, status;
    char byte = 0;
    CHECK(pipe2(gate, O_CLOEXEC));
    make_folders(folder);
    if (own_network) flags |= CLONE_NEWNET;
    pid_t pid = syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
    CHECK(pid);
    if (pid == 0) {
        close(gate[1]);
        mount_root(folder);
        CHECK(read(gate[0], &byte, 1)); /* the parent has made the link and the groups */
        if (own_network) configure_inside(bridge);
        enter_root(own_network);
        execl("/bin/true", "true", NULL);
        _exit(127);
    }
    close(gate[0]);
    make_groups(pid);
    if (bridge) {
        char name[IFNAMSIZ];
        int fd = rtnetlink();
        snprintf(name, sizeof name, "fv%d", pid);
        add_veth(fd, bridge, name, pid);
        close(fd);
    }
    CHECK(write(gate[1], &byte, 1));
    CHECK(waitpid(pid, &status, 0));
    close(gate[1]);
    if (status != 0) {
        fprintf(stderr, "floor: true ended with status %d\n", status);
        exit(1);
    }
    remove_groups();
    remove_folders();
}

int main(int count, char **words) {
    if (count != 4) return 2;
    int bridge = 0, cycles = atoi(words[3]);
    CHECK(mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    find_groups();
    if (!strcmp(words[2], "bridge")) {
        add_bridge();
        bridge = if_nametoindex("floor0");
    }
    for (int i = 0; i < cycles; i++) {
        double began = now_s(), cpu = cpu_s();
        cycle(words[1], words[2], bridge);
        printf("{\"wall_ms\": %.3f, \"cpu_ms\": %.3f}\n", (now_s() - began) * 1000, (cpu_s() - cpu) * 1000);
        fflush(stdout);
    }
    return 0;
}
