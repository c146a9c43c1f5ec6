/* A stand-in for LeapC: the calls that Ultraleap's Python binding makes, with structures of our own.
 * Not the vendor's header (which may not be passed on): names of calls and fields are the binding's,
 * layouts are ours, and tests/leapc/leap is compiled against this file. Units as LeapC's:
 * millimetres, microseconds. */

typedef struct { float x, y, z; } LEAP_VECTOR;
typedef struct { LEAP_VECTOR prev_joint, next_joint; } LEAP_BONE;
typedef struct { LEAP_BONE metacarpal, proximal, intermediate, distal; } LEAP_DIGIT;
typedef struct {
  uint32_t id;
  int32_t type; /* 0 left, 1 right */
  float confidence;
  LEAP_DIGIT digits[5];
  LEAP_BONE arm;
} LEAP_HAND;

enum {
  TYPE_NONE, TYPE_CONNECTION, TYPE_CONNECTION_LOST, TYPE_DEVICE, TYPE_DEVICE_LOST,
  TYPE_DEVICE_FAILURE, TYPE_TRACKING
};
enum { RS_SUCCESS = 0, RS_TIMEOUT = 1, RS_NOT_CONNECTED = 2, RS_CANNOT_OPEN_DEVICE = 3 };

typedef struct {
  int32_t type;
  uint32_t device_id;
  int64_t timestamp;         /* microseconds */
  int64_t tracking_frame_id;
  uint32_t n_hands;
  LEAP_HAND hands[2];
} LEAP_CONNECTION_MESSAGE;

/* What the binding calls. */
int LeapCreateConnection(void);  /* a handle, or -1 */
void LeapDestroyConnection(int connection);
int LeapOpenConnection(int connection);
void LeapCloseConnection(int connection);
int LeapPollConnection(int connection, uint32_t timeout_ms, LEAP_CONNECTION_MESSAGE *message);
int LeapSetTrackingMode(int connection, int mode);
int LeapGetDeviceList(int connection, uint32_t *ids, uint32_t *count);
int LeapOpenDevice(uint32_t id);
const char *LeapGetDeviceSerial(uint32_t id);
int LeapSubscribeEvents(int connection, uint32_t id);

/* What a test does with the service and its sensors. */
void stand_in_reset(void);
void stand_in_service(int running);
void stand_in_plug(uint32_t id, const char *serial);
void stand_in_unplug(uint32_t id);
void stand_in_fail(uint32_t id);
void stand_in_frame(const LEAP_CONNECTION_MESSAGE *frame); /* to all who are subscribed */
int stand_in_mode(void);
