#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "stand_in.h"

#define CONNECTIONS 16
#define DEVICES 8
#define QUEUE 512

typedef struct {
  int used, open, subscribed[DEVICES], any; /* any: nothing was subscribed to, all frames come */
  LEAP_CONNECTION_MESSAGE queue[QUEUE];
  unsigned head, tail;
} Connection;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news = PTHREAD_COND_INITIALIZER;
static Connection connections[CONNECTIONS];
static struct { uint32_t id; char serial[32]; } devices[DEVICES];
static int running, mode;

static int device_index(uint32_t id) {
  for (int i = 0; i < DEVICES; i++)
    if (devices[i].id == id && id) return i;
  return -1;
}

static void push(Connection *c, const LEAP_CONNECTION_MESSAGE *m) {
  if (c->head - c->tail == QUEUE) c->tail++; /* the service, too, drops the oldest */
  c->queue[c->head++ % QUEUE] = *m;
  pthread_cond_broadcast(&news);
}

static void tell(int type, uint32_t id) {
  LEAP_CONNECTION_MESSAGE m;
  memset(&m, 0, sizeof m);
  m.type = type, m.device_id = id;
  for (int i = 0; i < CONNECTIONS; i++)
    if (connections[i].open) push(&connections[i], &m);
}

int LeapCreateConnection(void) {
  pthread_mutex_lock(&lock);
  int found = -1;
  for (int i = 0; i < CONNECTIONS && found < 0; i++)
    if (!connections[i].used) {
      memset(&connections[i], 0, sizeof connections[i]);
      connections[i].used = connections[i].any = 1;
      found = i;
    }
  pthread_mutex_unlock(&lock);
  return found;
}

void LeapDestroyConnection(int c) { connections[c].used = 0; }

int LeapOpenConnection(int c) {
  pthread_mutex_lock(&lock);
  connections[c].open = 1;
  if (running) {
    LEAP_CONNECTION_MESSAGE m;
    memset(&m, 0, sizeof m);
    m.type = TYPE_CONNECTION;
    push(&connections[c], &m);
    m.type = TYPE_DEVICE;
    for (int i = 0; i < DEVICES; i++)
      if (devices[i].id) m.device_id = devices[i].id, push(&connections[c], &m);
  }
  pthread_mutex_unlock(&lock);
  return RS_SUCCESS;
}

void LeapCloseConnection(int c) { connections[c].open = 0; }

int LeapPollConnection(int c, uint32_t timeout_ms, LEAP_CONNECTION_MESSAGE *message) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += timeout_ms / 1000;
  until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
  if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
  pthread_mutex_lock(&lock);
  Connection *k = &connections[c];
  while (k->head == k->tail)
    if (pthread_cond_timedwait(&news, &lock, &until)) break;
  int got = k->head != k->tail;
  if (got) *message = k->queue[k->tail++ % QUEUE];
  pthread_mutex_unlock(&lock);
  return got ? RS_SUCCESS : RS_TIMEOUT;
}

int LeapSetTrackingMode(int c, int wanted) {
  (void)c;
  if (!running) return RS_NOT_CONNECTED;
  mode = wanted;
  return RS_SUCCESS;
}

int LeapGetDeviceList(int c, uint32_t *ids, uint32_t *count) {
  (void)c;
  if (!running) return RS_NOT_CONNECTED;
  *count = 0;
  for (int i = 0; i < DEVICES; i++)
    if (devices[i].id) ids[(*count)++] = devices[i].id;
  return RS_SUCCESS;
}

int LeapOpenDevice(uint32_t id) { return device_index(id) < 0 ? RS_CANNOT_OPEN_DEVICE : RS_SUCCESS; }

const char *LeapGetDeviceSerial(uint32_t id) {
  int i = device_index(id);
  return i < 0 ? "" : devices[i].serial;
}

int LeapSubscribeEvents(int c, uint32_t id) {
  int i = device_index(id);
  if (i < 0) return RS_CANNOT_OPEN_DEVICE;
  connections[c].any = 0;
  connections[c].subscribed[i] = 1;
  return RS_SUCCESS;
}

void stand_in_reset(void) {
  pthread_mutex_lock(&lock);
  memset(devices, 0, sizeof devices);
  running = mode = 0;
  pthread_mutex_unlock(&lock);
}

void stand_in_service(int on) {
  pthread_mutex_lock(&lock);
  running = on;
  tell(on ? TYPE_CONNECTION : TYPE_CONNECTION_LOST, 0);
  pthread_mutex_unlock(&lock);
}

void stand_in_plug(uint32_t id, const char *serial) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < DEVICES; i++)
    if (!devices[i].id) {
      devices[i].id = id;
      strncpy(devices[i].serial, serial, sizeof devices[i].serial - 1);
      break;
    }
  tell(TYPE_DEVICE, id);
  pthread_mutex_unlock(&lock);
}

void stand_in_unplug(uint32_t id) {
  pthread_mutex_lock(&lock);
  int i = device_index(id);
  if (i >= 0) memset(&devices[i], 0, sizeof devices[i]);
  tell(TYPE_DEVICE_LOST, id);
  pthread_mutex_unlock(&lock);
}

void stand_in_fail(uint32_t id) {
  pthread_mutex_lock(&lock);
  tell(TYPE_DEVICE_FAILURE, id);
  pthread_mutex_unlock(&lock);
}

void stand_in_frame(const LEAP_CONNECTION_MESSAGE *frame) {
  pthread_mutex_lock(&lock);
  int device = device_index(frame->device_id);
  for (int i = 0; i < CONNECTIONS; i++) {
    Connection *c = &connections[i];
    if (c->open && (c->any || (device >= 0 && c->subscribed[device]))) push(c, frame);
  }
  pthread_mutex_unlock(&lock);
}

int stand_in_mode(void) { return mode; }
