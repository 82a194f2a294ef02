extends RefCounted
## One session as a state machine without I/O. Its methods report what happened and when (client
## milliseconds); `commands()` returns what the caller has to do: Dictionaries with the key `do`:
## connect, disconnect, send (message), frame (message, received), pong (message, received),
## welcomed (welcome), notice (fault), event (name, detail).

const Fault = preload("fault.gd")
const Protocol = preload("protocol.gd")

const IDLE := "idle"
const CONNECTING := "connecting"
const QUEUED := "queued"
const LOADING := "loading"
const PLAYING := "playing"
const RECONNECTING := "reconnecting"
const FULL := "full"
const ERROR := "error"

const BACKOFF_MS: Array[float] = [250.0, 4000.0]  # first and longest pause between two attempts
const SILENCE_MS := 4000.0  # without a message for this long the connection counts as dead
const UPLOAD_SILENCE_MS := 60000.0  # the same while prompt frames are on their way
const OPEN_MS := 5000.0
const PING_MS := 500.0
# The first pings come quickly, to match the clocks before the first frame.
const FAST_PINGS := 6
const FAST_PING_MS := 80.0
const GIVE_UP_MS := 60000.0
const FULL_RETRY_MS := 5000.0
const SILENT_MS := 3000.0  # after this long without a ping the gateway may have ended the session
# Fatal for the connection, not for the session.
const RECONNECT: Array[String] = ["client_too_slow", "not_greeted"]

enum Wire { CLOSED, OPENING, OPEN, GREETED }

var state := IDLE
var detail := ""
var progress: Variant = null
var error: Fault = null
var welcome := {}
var attempt := 0
var client := "godot"
var role := "player"
var token: Variant = null
var world: Variant = null
## Whether to ask for depth with every frame.
var depth := false
## Whether to queue for a seat if every one is taken.
var wait := false
## Whether the messages travel by ZeroMQ: frames are then pixels, not JPEG files.
var zeromq := false
## How long to try to reach a server that never answered.
var first_contact_ms := 12000.0

var _commands: Array[Dictionary] = []
var _wire := Wire.CLOSED
var _wire_since := 0.0
var _since := 0.0
var _retry_at := INF
var _last_heard := 0.0
var _pings := 0
var _next_ping := 0.0
var _pinged := 0.0
var _resume: Variant = null
var _theme: Variant = null
var _seed: Variant = null
var _files: Variant = null  # prompt frames, an Array of PackedByteArray; null: as the server has it
var _uploading := false
var _running := false  # whether the session has a world
var _start_sent := false
var _restart_due := false  # wanted while there was no connection


## Return what has to be done since the last call, in order.
func commands() -> Array[Dictionary]:
	var result := _commands
	_commands = []
	return result


func greeted() -> bool:
	return _wire == Wire.GREETED


# -- what the player wants --------------------------------------------------------------------------


## Start a session. `files` are prompt frames, PNG or JPEG files, oldest first, instead of the theme.
func play(theme: Variant, seed_: Variant, now: float, files: Variant = null) -> void:
	_files = files
	_theme = theme
	_seed = seed_
	_running = false
	_restart_due = false
	_resume = null
	error = null
	attempt = 0
	if _wire != Wire.CLOSED:
		_hang_up()
	_enter(CONNECTING, now, "Contacting the server")
	_since = now
	_connect(now)


## Restart the session's world; null keeps the present theme, seed or prompt frames, and an empty
## Array of `files` goes back to the theme.
func restart(theme: Variant, seed_: Variant, now: float, files: Variant = null) -> void:
	_files = files if files != null else _files
	_theme = theme if theme != null else _theme
	_seed = seed_ if seed_ != null else _seed
	if _wire != Wire.GREETED:
		_restart_due = _running
	elif state != QUEUED:
		_start(now)


func leave(now: float) -> void:
	if _wire == Wire.GREETED:
		_send(Protocol.bye())
	_hang_up()
	_resume = null
	welcome = {}
	_enter(IDLE, now)


# -- what the network does --------------------------------------------------------------------------


func opened(now: float) -> void:
	if _wire != Wire.OPENING:
		return
	_wire = Wire.OPEN
	_wire_since = now
	_last_heard = now
	_pings = 0
	_next_ping = now
	_pinged = now
	_start_sent = false
	_uploading = false
	_send(Protocol.hello(client, role, token, _resume, world, depth, zeromq, wait))


func closed(reason: String, now: float) -> void:
	if _wire == Wire.CLOSED:
		return
	if _wire == Wire.GREETED:
		attempt = 0
	_wire = Wire.CLOSED
	if state in [ERROR, IDLE, FULL]:
		return
	_enter(CONNECTING if state == CONNECTING else RECONNECTING, now, reason)
	if now - _since > (first_contact_ms if state == CONNECTING else GIVE_UP_MS):
		_give_up(reason, now)
		return
	_retry_at = now + minf(BACKOFF_MS[1], BACKOFF_MS[0] * pow(2.0, attempt))
	attempt += 1


## Report a Fault in what was received. The session ends with an error.
func invalid(fault: Fault, now: float) -> void:
	_fail(fault, now)


func received(message: Dictionary, now: float) -> void:
	if _wire != Wire.OPEN and _wire != Wire.GREETED:
		return
	_last_heard = now
	match message["type"]:
		"welcome": _welcome(message, now)
		"status": _status(message, now)
		"frame": _frame(message, now)
		"event":
			if message["name"] == "world_lost":
				_enter(RECONNECTING, now, message["detail"])
			_do("event", {"name": message["name"], "detail": message["detail"]})
		"error": _rejected(message, now)
		"pong": _do("pong", {"message": message, "received": now})


## Advance the clock; call it at least every 100 ms while the session is not idle.
func tick(now: float) -> void:
	match _wire:
		Wire.CLOSED:
			if now >= _retry_at:
				if state == FULL:
					_enter(CONNECTING, now, "Asking for a seat again")
				_connect(now)
		Wire.OPENING:
			if now - _wire_since > OPEN_MS:
				_do("disconnect")
				closed("the connection did not open within %d s" % (OPEN_MS / 1000), now)
		_:
			_tick_open(now)


func _tick_open(now: float) -> void:
	var silence := UPLOAD_SILENCE_MS if _uploading else SILENCE_MS
	if now - _last_heard > silence:
		_do("disconnect")
		closed("the server was silent for %d s" % (silence / 1000), now)
		return
	if now < _next_ping:
		return
	_send(Protocol.ping(now))  # also before the welcome: loading a model may take minutes
	_pinged = now
	_pings += 1
	_next_ping = now + (FAST_PING_MS if _pings < FAST_PINGS else PING_MS)


func _do(command: String, fields := {}) -> void:
	fields["do"] = command
	_commands.append(fields)


func _send(message: Dictionary) -> void:
	_do("send", {"message": message})


func _enter(state_: String, now: float, detail_ := "") -> void:
	if state != state_:
		_since = now
	state = state_
	detail = detail_
	progress = null


func _connect(now: float) -> void:
	_wire = Wire.OPENING
	_wire_since = now
	_retry_at = INF
	_do("connect")


func _hang_up() -> void:
	_wire = Wire.CLOSED
	_retry_at = INF
	_do("disconnect")


func _give_up(reason: String, now: float) -> void:
	var first := state == CONNECTING
	_fail(Fault.new("unreachable" if first else "connection_lost", "",
			"a WebSocket connection to /session", "%s (%d attempts)" % [reason, attempt],
			"The server does not answer" if first else "The connection was lost and did not return",
			"Check that the server runs and that this machine can reach it, then play again."), now)


func _fail(fault: Fault, now: float) -> void:
	error = fault
	_enter(ERROR, now, fault.message)
	if _wire != Wire.CLOSED:
		_hang_up()


func _welcome(message: Dictionary, now: float) -> void:
	_wire = Wire.GREETED
	welcome = message
	attempt = 0
	_resume = message["resume"] if message["resume"] else null
	_running = message["started"]
	_do("welcomed", {"welcome": message})
	if message["seat"]["state"] == "queued":
		_enter(QUEUED, now, "All seats are taken")
		return
	_enter(RECONNECTING if state == RECONNECTING else LOADING, now, "Opening the world")
	if _restart_due or not _running:
		_start(now)


func _start(now: float) -> void:
	if role == "spectator":
		return
	_start_sent = true
	_restart_due = false
	for part: Dictionary in Protocol.prompt_frames(_files if _files != null else []):
		_uploading = true
		_send(part)
	_send(Protocol.start(_theme, _seed, null, _files.size() if _files != null else null))
	_enter(LOADING, now, "Opening the world")


func _status(message: Dictionary, now: float) -> void:
	_uploading = false
	match message["state"]:
		"queued":
			_enter(QUEUED, now, message["detail"])
		"ready":
			if _wire == Wire.GREETED and not _running and not _start_sent:
				_start(now)
		"loading":
			_enter(LOADING, now, message["detail"])
			progress = message["progress"]
		"reconnecting":
			_enter(RECONNECTING, now, message["detail"])
		"playing":
			_running = true


func _frame(message: Dictionary, now: float) -> void:
	if message["image"] == null:
		return
	var codec := "rgb" if zeromq else "jpeg"
	if message["codec"] != null and message["codec"] != codec:
		_fail(Fault.new("unsupported", "frame.codec", codec, message["codec"],
				"The server sends a codec that this client did not offer"), now)
		return
	_do("frame", {"message": message, "received": now})
	if _running and state in [LOADING, RECONNECTING]:
		_enter(PLAYING, now)


func _rejected(message: Dictionary, now: float) -> void:
	var fault := Fault.new(message["code"], message["path"], message["expected"], message["got"],
			message["message"], message["remedy"])
	_uploading = false
	var code := fault.code
	if code == "no_free_seat":
		error = fault
		_hang_up()
		_enter(FULL, now, fault.message)
		_retry_at = now + FULL_RETRY_MS
	elif code == "session_expired" and _wire == Wire.OPEN and _resume != null:
		_resume = null  # the earlier session ended: a new one, with the same theme and seed
		_again(now)
	elif code == "session_expired" and _wire == Wire.GREETED and now - _pinged > SILENT_MS:
		# The process stood still. Without such a pause another connection took the session, and
		# resuming it would make the two fight over it.
		_again(now)
	elif message["fatal"] and _wire == Wire.GREETED and code in RECONNECT:
		_again(now)
	elif message["fatal"] or _wire == Wire.OPEN or (_start_sent and not _running):
		if _wire == Wire.GREETED and not message["fatal"]:
			_send(Protocol.bye())  # frees the seat
		_resume = null
		_fail(fault, now)
	else:
		_do("notice", {"fault": fault})


## Close the connection and connect again at once.
func _again(now: float) -> void:
	_hang_up()
	_enter(RECONNECTING, now, "Connecting again")
	_connect(now)
