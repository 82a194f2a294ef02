extends RefCounted
## Runs a Session and its transport in a thread of its own, so that pings and the newest frame do
## not depend on the main loop. Every method may be called from the main loop.

const ClockOffset = preload("core/clock_offset.gd")
const Fault = preload("core/fault.gd")
const LatestFrame = preload("core/latest_frame.gd")
const Protocol = preload("core/protocol.gd")
const Session = preload("core/session.gd")
const WebSocketTransport = preload("websocket_transport.gd")
const ZeroMqTransport = preload("zeromq_transport.gd")

const POLL_USEC := 1000
const CREDIT := 2  # frames that may be on their way by ZeroMQ

var frames := LatestFrame.new()
var clock := ClockOffset.new()

var _url: String
var _session := Session.new()
var _transport: RefCounted  # a WebSocketTransport or a ZeroMqTransport
var _thread := Thread.new()
var _mutex := Mutex.new()
var _events: Array[Dictionary] = []
var _newest := {}
var _received := 0
var _stopping := false


## Return client time: milliseconds of the engine's steady clock.
static func now() -> float:
	return Time.get_ticks_usec() / 1000.0


## Return the address of a server given as http(s), ws(s), host:port or, for ZeroMQ, tcp.
static func session_url(server: String) -> String:
	var url := server.strip_edges().trim_suffix("/")
	if url.begins_with("tcp://"):
		return url
	url = url.trim_suffix("/session")
	if url.begins_with("http"):
		url = "ws" + url.substr(4)
	elif not url.begins_with("ws://") and not url.begins_with("wss://"):
		url = "ws://" + url
	return url + "/session"


func _init(server: String, token: Variant, world: Variant, role: String, timeout_ms: float,
		depth := false, wait := false) -> void:
	_url = session_url(server)
	_session.zeromq = _url.begins_with("tcp://")
	_transport = ZeroMqTransport.new() if _session.zeromq else WebSocketTransport.new()
	_session.token = token
	_session.world = world
	_session.role = role
	_session.first_contact_ms = timeout_ms
	_session.depth = depth
	_session.wait = wait


func play(theme: Variant, seed_: Variant, files: Variant = null) -> void:
	_session.play(theme, seed_, now(), files)
	_thread.start(_run)


func restart(theme: Variant, seed_: Variant, files: Variant = null) -> void:
	_mutex.lock()
	_session.restart(theme, seed_, now(), files)
	_mutex.unlock()


## Say goodbye, end the thread and close the socket. It takes at most about 100 ms.
func stop() -> void:
	_mutex.lock()
	_stopping = true
	_mutex.unlock()
	if _thread.is_started():
		_thread.wait_to_finish()


## Send a message, if the server has admitted this client.
func send(message: Dictionary) -> void:
	_mutex.lock()
	if _session.greeted():
		_transport.send(Protocol.encode(message))
	_mutex.unlock()


## Return what happened since the last call: Dictionaries with `event` state, welcomed or fault.
func events() -> Array[Dictionary]:
	_mutex.lock()
	var result := _events
	_events = []
	_mutex.unlock()
	return result


## Return `state`, `detail`, `received` (frames), `replaced`, `rtt`, `offset`.
func view() -> Dictionary:
	_mutex.lock()
	var result := {"state": _session.state, "detail": _session.detail, "received": _received,
		"replaced": frames.replaced, "rtt": clock.rtt, "offset": clock.offset}
	_mutex.unlock()
	return result


func _run() -> void:
	while true:
		_mutex.lock()
		var stopping := _stopping
		if stopping:
			_session.leave(now())
			_obey()
		else:
			_step()
		var frame := _newest
		_newest = {}
		_mutex.unlock()
		if stopping:
			return
		if not frame.is_empty():
			_decode(frame)
		OS.delay_usec(POLL_USEC)


func _step() -> void:
	var before := _session.state
	var detail := _session.detail
	var result: Dictionary = _transport.poll()
	if result["opened"]:
		_session.opened(now())
	for data: Variant in result["messages"]:
		var message: Variant = Protocol.decode_parts(data) if data is Array \
				else Protocol.decode_server(data)
		if message is Fault:
			_session.invalid(message, now())
		else:
			_session.received(message, now())
	if result["closed"] != null:
		_session.closed(result["closed"], now())
	_session.tick(now())
	_obey()
	if _session.state != before or _session.detail != detail:
		_events.append({"event": "state", "state": _session.state, "detail": _session.detail})
		if _session.state in [Session.ERROR, Session.FULL] and _session.state != before:
			_events.append({"event": "fault", "fault": _session.error})


func _obey() -> void:
	for command: Dictionary in _session.commands():
		match command["do"]:
			"connect":
				clock.reset()
				if _transport.open(_url) != OK:
					_session.invalid(Fault.new("unreachable", "", "host:port or ws://host:port",
							_url, "The server's address is not valid", "Correct `server`."), now())
			"disconnect": _transport.close()
			"send": _transport.send(Protocol.encode(command["message"]))
			"frame":
				_newest = command
				_received += 1
				if _session.zeromq:
					_transport.send(Protocol.encode(Protocol.credit(1)))
			"pong":
				var pong: Dictionary = command["message"]
				clock.pong(pong["time"], command["received"], pong["server_time"])
			"welcomed":
				_events.append({"event": "welcomed", "welcome": command["welcome"]})
				if _session.zeromq:
					_transport.send(Protocol.encode(Protocol.credit(CREDIT)))
			"notice": _events.append({"event": "fault", "fault": command["fault"]})
			"event": _events.append({"event": "notified", "name": command["name"],
					"detail": command["detail"]})


func _decode(command: Dictionary) -> void:
	var message: Dictionary = command["message"]
	var data: PackedByteArray = message["image"]
	var image := Image.new()
	if message["codec"] == "rgb":
		var width: int = message["header"]["width"]
		var height: int = message["header"]["height"]
		if width * height == 0 or data.size() != 3 * width * height:
			_damaged("image", "3 bytes for each of %d x %d pixels" % [width, height],
					"%d bytes" % data.size())
			return
		image = Image.create_from_data(width, height, false, Image.FORMAT_RGB8, data)
	elif image.load_jpg_from_buffer(data) != OK:
		_damaged("image", "a JPEG file", "%d other bytes" % data.size())
		return
	var frame := {"image": image, "header": message["header"], "received": command["received"],
		"depth": null, "depth_scale": 0.0}
	var depth: Variant = message["depth"]
	if depth != null:
		var size := image.get_size()
		if depth.size() != 2 * size.x * size.y or message["depth_scale"] == null:
			_damaged("depth", "2 bytes for each of %d x %d pixels, and a scale" % [size.x, size.y],
					"%d bytes" % depth.size())
			return
		frame["depth"] = Image.create_from_data(size.x, size.y, false, Image.FORMAT_RG8, depth)
		frame["depth_scale"] = message["depth_scale"]
	frames.put(frame)


func _damaged(part: String, expected: String, got: String) -> void:
	_mutex.lock()
	_events.append({"event": "fault", "fault": Fault.new("bad_message", "frame." + part,
			expected, got, "A frame is damaged")})
	_mutex.unlock()
