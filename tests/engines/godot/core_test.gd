extends SceneTree
## Tests the engine-free core: `godot --headless --path PROJECT --script THIS -- FIXTURES`.
## Prints one line per failed check and at the end the number of checks; exits with 1 on failure.

const ClockOffset = preload("res://addons/worldbridge/core/clock_offset.gd")
const Connection = preload("res://addons/worldbridge/connection.gd")
const Coordinates = preload("res://addons/worldbridge/core/coordinates.gd")
const Fault = preload("res://addons/worldbridge/core/fault.gd")
const InputSampler = preload("res://addons/worldbridge/core/input_sampler.gd")
const LatestFrame = preload("res://addons/worldbridge/core/latest_frame.gd")
const Msgpack = preload("res://addons/worldbridge/core/msgpack.gd")
const Protocol = preload("res://addons/worldbridge/core/protocol.gd")
const Session = preload("res://addons/worldbridge/core/session.gd")
const Zmtp = preload("res://addons/worldbridge/core/zmtp.gd")

var _checks := 0
var _failed := 0
var _fixtures: String


func _initialize() -> void:
	_fixtures = OS.get_cmdline_user_args()[0]
	_test_valid()
	_test_invalid()
	_test_damaged()
	_test_integers()
	_test_poses()
	_test_gamepads()
	_test_homography()
	_test_sampler()
	_test_clock()
	_test_latest_frame()
	_test_session()
	_test_queue()
	_test_prompt_frames()
	_test_session_faults()
	_test_urls()
	_test_zmtp()
	_test_parts()
	print("CHECKS %d FAILED %d" % [_checks, _failed])
	quit(1 if _failed else 0)


func _check(right: bool, what: String) -> void:
	_checks += 1
	if not right:
		_failed += 1
		print("FAIL " + what)


func _json(path: String) -> Variant:
	return JSON.parse_string(FileAccess.get_file_as_string(path))


func _names(folder: String) -> Array:
	var names := []
	for file in DirAccess.get_files_at(_fixtures + "/" + folder):
		if file.ends_with(".json"):
			names.append(file.trim_suffix(".json"))
	_check(names.size() > 30, folder + ": fixtures found")
	return names


## Whether a decoded value says the same as its JSON: numbers by value, bytes as {"hex": ...}.
func _same(value: Variant, json: Variant) -> bool:
	if value is PackedByteArray:
		return json is Dictionary and value.hex_encode() == json.get("hex")
	if value is Dictionary:
		if not json is Dictionary or value.size() != json.size():
			return false
		for key: String in value:
			if not json.has(key) or not _same(value[key], json[key]):
				return false
		return true
	if value is Array:
		if not json is Array or value.size() != json.size():
			return false
		for i in value.size():
			if not _same(value[i], json[i]):
				return false
		return true
	if value is int or value is float:
		return json is float and float(value) == json
	return typeof(value) == typeof(json) and value == json


func _test_valid() -> void:
	for name: String in _names("valid"):
		var path := "%s/valid/%s" % [_fixtures, name]
		var data := FileAccess.get_file_as_bytes(path + ".msgpack")
		var fixture: Dictionary = _json(path + ".json")
		var reader := Msgpack.new()
		var value: Variant = reader.unpack(data)
		_check(not reader.expected and _same(value, fixture["message"]), name + ": decoded as its JSON")
		_check(Msgpack.pack(value) == data, name + ": encoded to the same bytes")
		var message: Variant = value
		if fixture["direction"] == "server":
			message = Protocol.decode_server(data)
		elif fixture["direction"] == "client":
			message = Protocol.decode_client(data)
		_check(message is Dictionary, "%s: accepted: %s" % [name, message])


func _test_invalid() -> void:
	for name: String in _names("invalid"):
		var path := "%s/invalid/%s" % [_fixtures, name]
		var data := FileAccess.get_file_as_bytes(path + ".msgpack")
		var fixture: Dictionary = _json(path + ".json")
		var result: Variant
		match fixture["direction"]:
			"server": result = Protocol.decode_server(data)
			"client": result = Protocol.decode_client(data)
			_: continue  # between gateway and worker: no client sees it
		_check(result is Fault, name + ": refused")
		if result is Fault:
			# Of a client this would be a `version_mismatch`; so it is here, to say what to do.
			var code: String = "version_mismatch" if name == "server_welcome_version" else fixture["code"]
			_check(result.code == code, "%s: code %s" % [name, result.code])
			_check(result.path == fixture["path"], "%s: path %s" % [name, result.path])
			_check(result.expected != "" and result.remedy != "", name + ": expected and remedy")


## Every valid message of the server, cut short anywhere or with a byte changed, is a message or a
## Fault.
func _test_damaged() -> void:
	var random := RandomNumberGenerator.new()
	random.seed = 1
	for name: String in ["server_frame", "server_status", "server_error"]:
		var data := FileAccess.get_file_as_bytes("%s/valid/%s.msgpack" % [_fixtures, name])
		for length in data.size():
			_check(Protocol.decode_server(data.slice(0, length)) is Fault, "%s cut at %d" % [name, length])
		for i in 200:
			var other := data.duplicate()
			other[random.randi() % data.size()] = random.randi() % 256
			var result: Variant = Protocol.decode_server(other)
			_check(result is Fault or result is Dictionary, "%s changed" % name)
	for lead in 256:
		var announced := PackedByteArray([0x81, 0xa1, 0x61, lead, 0xff, 0xff, 0xff, 0xff])
		_check(Protocol.decode_server(announced) is Fault, "announced larger than it is: %x" % lead)


func _test_integers() -> void:
	for value: int in [0, 127, 128, 255, 256, 65535, 65536, 4294967295, 4294967296,
			Msgpack.MAX_INTEGER, -1, -32, -33, -128, -129, -32768, -32769, -2147483648, -2147483649,
			-Msgpack.MAX_INTEGER]:
		var reader := Msgpack.new()
		_check(reader.unpack(Msgpack.pack(value)) == value and not reader.expected, "integer %d" % value)
	var large := Msgpack.new()
	large.unpack(Msgpack.pack(Msgpack.MAX_INTEGER + 1))
	_check(large.expected != "", "an integer of 2^53 is refused")


func _test_poses() -> void:
	for pose: Dictionary in _json(_fixtures + "/poses.json"):
		var transform := Coordinates.from_pose(pose)
		for row in 3:
			for column in 4:
				var part: Vector3 = transform.origin if column == 3 else transform.basis[column]
				_check(absf(part[row] - pose["matrix"][row][column]) < 1e-5,
						"%s: matrix [%d][%d]" % [pose["name"], row, column])
		var back := Coordinates.to_pose(transform, pose["fov_y"])
		_check(back["fov_y"] == pose["fov_y"], pose["name"] + ": field of view")
		var q: Array = pose["orientation"]
		var dot := 0.0
		for i in 4:
			dot += q[i] * back["orientation"][i]
		_check(absf(absf(dot) - 1.0) < 1e-5, pose["name"] + ": orientation returns")
		var state := {"sequence": 0, "time": 0.0, "camera": back}
		_check(Protocol.decode_client(Protocol.encode(Protocol.input([state]))) is Dictionary,
				pose["name"] + ": accepted as a camera")
	_check(absf(Coordinates.vertical_fov(90.0, 2.0) - 53.1301) < 1e-3, "vertical field of view")


func _test_gamepads() -> void:
	for pad: Dictionary in _json(_fixtures + "/gamepads.json"):
		var bits := InputSampler.button_bits(pad["pressed"])
		_check(bits == int(pad["buttons"]), pad["name"] + ": buttons")
		var sampler := InputSampler.new()
		sampler.set_gamepad(pad["axes"], bits)
		var state := sampler.sample(1.0)
		_check(state["axes"] == pad["axes"] and state["buttons"] == bits, pad["name"] + ": state")
	_check(InputSampler.JOY_BUTTONS.size() == 17, "17 buttons")


func _test_homography() -> void:
	var frame := Transform3D.IDENTITY
	# The display's camera is turned 30 degrees to the left: its middle shows what the frame has there.
	var display := Transform3D(Basis(Vector3.UP, deg_to_rad(30.0)), Vector3(5, 6, 7))
	var ray := Coordinates.rotation_homography(frame, display) * Vector3(0, 0, -1)
	_check(absf(ray.x / -ray.z + tan(deg_to_rad(30.0))) < 1e-5 and absf(ray.y) < 1e-6, "turned left")
	var same := Coordinates.rotation_homography(display, display) * Vector3(0.3, -0.2, -1)
	_check(same.is_equal_approx(Vector3(0.3, -0.2, -1)), "the same camera changes nothing")


func _test_sampler() -> void:
	var sampler := InputSampler.new()
	sampler.hold_ms = 16.0
	sampler.press("KeyW", 0.0)
	sampler.release("KeyW", 1.0)
	_check(sampler.sample(2.0)["keys"] == ["KeyW"], "a tap is held for one step")
	_check(sampler.sample(17.0)["keys"] == [], "and ends")
	sampler.move_pointer(Vector2(3, -2))
	sampler.move_pointer(Vector2(1, 0))
	_check(sampler.sample(18.0)["pointer"] == [4.0, -2.0], "the pointer counts")
	for i in 20:
		sampler.press("Key%d" % i, 20.0)
	_check(sampler.sample(21.0)["keys"].size() == Protocol.MAX_KEYS, "at most 16 keys")
	sampler.release_all()
	sampler.sample(22.0)
	var history := sampler.history()
	_check(sampler.due(1000.0) and not sampler.due(1005.0), "not due at once")
	sampler.press("KeyA", 1005.0)
	_check(not sampler.due(1005.5) and sampler.due(1006.0), "a change is due after 6 ms")
	var due := 0
	for i in 1000:
		due += int(sampler.due(2000.0 + 7.0 * i))
	_check(absi(due - 420) <= 1, "60 per second with a loop of 7 ms: %d" % due)
	_check(history.size() == 4 and history[0]["sequence"] == 4 and history[3]["sequence"] == 1,
			"the last four states, newest first")
	_check(Protocol.decode_client(Protocol.encode(Protocol.input(history))) is Dictionary,
			"the input is valid")
	var event := InputEventKey.new()
	event.physical_keycode = KEY_SHIFT
	event.location = KEY_LOCATION_RIGHT
	_check(InputSampler.key_code(event) == "ShiftRight", "right shift")
	event.physical_keycode = KEY_W
	_check(InputSampler.key_code(event) == "KeyW", "KeyW")
	event.physical_keycode = KEY_F5
	_check(InputSampler.key_code(event) == "", "no key of the protocol")


func _test_clock() -> void:
	var clock := ClockOffset.new(2)
	_check(is_nan(clock.offset), "unknown before the first pong")
	clock.pong(100.0, 110.0, 5.0)
	clock.pong(200.0, 202.0, 101.0)
	_check(clock.offset == 100.0 and clock.rtt == 2.0, "the shortest round trip counts")
	clock.pong(300.0, 320.0, 5.0)
	_check(clock.offset == 100.0 and clock.rtt == 20.0 and clock.min_rtt == 2.0, "a slow one does not")
	clock.pong(400.0, 430.0, 15.0)
	_check(clock.offset == 305.0, "old pings are forgotten")
	clock.pong(10.0, 5.0, 0.0)
	_check(clock.rtt == 30.0, "time does not run backwards")


func _test_latest_frame() -> void:
	var slot := LatestFrame.new()
	_check(slot.take().is_empty(), "empty at first")
	slot.put({"header": 1})
	slot.put({"header": 2})
	_check(slot.take() == {"header": 2} and slot.replaced == 1, "the newest frame counts")
	_check(slot.take().is_empty(), "a frame is taken once")


func _server(name: String) -> Dictionary:
	return Protocol.decode_server(
			FileAccess.get_file_as_bytes("%s/valid/server_%s.msgpack" % [_fixtures, name]))


func _done(session: Session) -> Array:
	var names := []
	for command in session.commands():
		names.append(command["message"]["type"] if command["do"] == "send" else command["do"])
	return names


## A session that plays, at 10 ms.
func _playing() -> Session:
	var session := Session.new()
	session.play("city", 7, 0.0)
	session.opened(1.0)
	var welcome := _server("welcome")
	welcome["started"] = false
	session.received(welcome, 2.0)
	session.received(_server("status_playing"), 3.0)
	session.received(_server("frame"), 10.0)
	return session


func _test_queue() -> void:
	var session := Session.new()
	session.wait = true
	session.play("city", 7, 0.0)
	session.opened(1.0)
	var hello: Dictionary = session.commands()[1]["message"]
	_check(hello["wait"] == true, "it asks for a place in the queue")
	session.received(_server("welcome_queued"), 2.0)
	_check(session.state == "queued" and _done(session) == ["welcomed"], "it waits for a seat")
	session.received(_server("status_queued"), 3.0)
	_check(session.state == "queued", "and goes on waiting")
	session.received(_server("status_ready"), 4.0)
	_check(_done(session) == ["start"] and session.state == "loading", "then it starts")
	session.received(_server("event_resumed"), 5.0)
	var event: Dictionary = session.commands()[0]
	_check(event["do"] == "event" and event["name"] == "session_resumed", "it hears of events")


func _test_session() -> void:
	var session := Session.new()
	session.play("city", 7, 0.0)
	_check(_done(session) == ["connect"] and session.state == "connecting", "it connects")
	session.opened(1.0)
	_check(_done(session) == ["hello"], "it greets")
	session.tick(1.0)
	_check(_done(session) == ["ping"], "it pings before the welcome")
	session = _playing()
	_check(session.state == "playing", "it plays")
	_check(_done(session) == ["connect", "hello", "welcomed", "start", "frame"], "in this order")
	session.tick(4011.0)
	_check(_done(session) == ["disconnect"] and session.state == "reconnecting", "silence ends it")
	session.tick(4200.0)
	_check(_done(session) == [], "it waits")
	session.tick(4270.0)
	_check(_done(session) == ["connect"], "and connects again")
	session.opened(4271.0)
	var hello: Dictionary = session.commands()[0]["message"]
	_check(hello["resume"] == "resume-1", "with the resume token")
	var welcome := _server("welcome")
	welcome["started"] = true
	session.received(welcome, 4272.0)
	_check("start" not in _done(session), "a running world is not restarted")
	session.received(_server("frame"), 4280.0)
	_check(session.state == "playing", "it plays again")
	session.leave(5000.0)
	_check(_done(session) == ["frame", "bye", "disconnect"] and session.state == "idle", "it leaves")


func _test_prompt_frames() -> void:
	var file := PackedByteArray()
	file.resize(2 * Protocol.MAX_PART + 1)
	var parts := Protocol.prompt_frames([PackedByteArray([1]), file])
	_check(parts.size() == 4 and parts[0]["data"].size() == 1, "a file is split where it has to be")
	_check(parts[3]["data"].size() == 1 and parts[3]["part"] == 2 and parts[3]["parts"] == 3
			and parts[3]["index"] == 1 and parts[3]["count"] == 2, "each part says what it is")
	for part in parts:
		_check(not Protocol.decode_client(Protocol.encode(part)) is Fault, "the server takes it")
	var session := Session.new()
	session.play("city", 7, 0.0, [PackedByteArray([1, 2])])
	session.opened(1.0)
	session.received(_server("welcome"), 2.0)
	var sent := session.commands().filter(func(c: Dictionary) -> bool: return c["do"] == "send")
	var start: Dictionary = sent[-1]["message"]
	_check(sent[-2]["message"]["type"] == "prompt_frame" and start["prompt_frames"] == 1,
			"prompt frames come before start")
	session.tick(20000.0)
	_check(session.state == "loading", "an upload may take long")
	session.received(_server("status_playing"), 20001.0)
	session.commands()
	session.restart(null, null, 20002.0, [])
	_check(session.commands()[0]["message"]["prompt_frames"] == 0, "an empty list: the theme again")


func _test_session_faults() -> void:
	var session := Session.new()
	session.play(null, null, 0.0)
	var now := 0.0
	while session.state == "connecting" and now < 60000.0:
		session.closed("refused", now)
		now += 100.0
		session.tick(now)
	_check(session.state == "error" and session.error.code == "unreachable" and now < 20000.0,
			"a server that is not there")
	session = _playing()
	session.commands()
	session.invalid(Fault.new("bad_message", "frame", "a map", "nil"), 20.0)
	_check(session.state == "error" and _done(session) == ["disconnect"], "an invalid message")
	session = _playing()
	session.commands()
	var refusal := _server("error")
	refusal["code"] = "no_free_seat"
	refusal["fatal"] = true
	session.received(refusal, 20.0)
	_check(session.state == "full" and session.error.code == "no_free_seat", "no seat")
	session.tick(5021.0)
	_check(_done(session) == ["disconnect", "connect"], "it asks again")
	session = _playing()
	session.commands()
	refusal["code"] = "client_too_slow"
	session.received(refusal, 20.0)
	_check(_done(session) == ["disconnect", "connect"] and session.state == "reconnecting", "too slow")
	session = _playing()
	session.commands()
	refusal["code"] = "unknown_theme"
	refusal["fatal"] = false
	session.received(refusal, 20.0)
	_check(session.state == "playing" and _done(session) == ["notice"], "a refused restart")
	session = _playing()
	session.commands()
	refusal["code"] = "session_expired"
	refusal["fatal"] = true
	session.received(refusal, 20.0)
	_check(session.state == "error", "another connection took the session")
	session = _playing()
	session.commands()
	var frame := _server("frame")
	frame["codec"] = "vp8"
	session.received(frame, 20.0)
	_check(session.state == "error" and session.error.code == "unsupported", "an unknown codec")


func _test_urls() -> void:
	for server: String in ["127.0.0.1:8000", "http://127.0.0.1:8000/", "ws://127.0.0.1:8000/session"]:
		_check(Connection.session_url(server) == "ws://127.0.0.1:8000/session", server)
	_check(Connection.session_url("https://a.example") == "wss://a.example/session", "https")


## What a ROUTER says first: its greeting and READY.
func _router(mechanism := "NULL") -> PackedByteArray:
	var data := PackedByteArray()
	data.resize(64)
	data[0] = 0xff
	data[9] = 0x7f
	data[10] = 3
	data[11] = 1
	for i in mechanism.length():
		data[12 + i] = mechanism.unicode_at(i)
	data.append_array(PackedByteArray([4, 6, 5]))
	data.append_array("READY".to_ascii_buffer())
	return data


func _test_zmtp() -> void:
	var large := PackedByteArray()
	large.resize(300)
	var wire := _router()
	wire.append_array(PackedByteArray([4, 9, 4]))
	wire.append_array("PING".to_ascii_buffer())
	wire.append_array(PackedByteArray([0, 40, 7, 8]))
	wire.append_array(PackedByteArray([1, 2, 65, 66, 2, 0, 0, 0, 0, 0, 0, 1, 44]))
	wire.append_array(large)
	wire.append_array(PackedByteArray([0, 0]))
	for step: int in [1, 3, wire.size()]:
		var zmtp := Zmtp.new()
		_check(zmtp.outgoing.size() == 64 and zmtp.outgoing[0] == 0xff, "a greeting goes first")
		zmtp.outgoing.clear()
		for at in range(0, wire.size(), step):
			zmtp.feed(wire.slice(at, at + step))
		_check(zmtp.ready and not zmtp.fault, "ready in steps of %d: %s" % [step, zmtp.fault])
		var expected: Array[Array] = [[PackedByteArray([65, 66]), large], [PackedByteArray()]]
		_check(str(zmtp.messages) == str(expected), "messages in steps of %d" % step)
		_check(zmtp.outgoing.slice(-9) == PackedByteArray([4, 7, 4, 80, 79, 78, 71, 7, 8]),
				"a ping is answered with its context")
	var wrong := {
		"another protocol": "HTTP/1.1 400 Bad Request\r\n\r\n".repeat(3).to_ascii_buffer(),
		"keys wanted": _router("CURVE"),
		"too large": _router() + PackedByteArray([2, 0, 0, 0, 1, 0, 0, 0, 0]),
		"unknown flags": _router() + PackedByteArray([8, 0]),
		"too many parts": _router() + PackedByteArray([1, 0, 1, 0, 1, 0, 0, 0]),
		"a message too early": _router().slice(0, 64) + PackedByteArray([0, 0]),
	}
	for name: String in wrong:
		var zmtp := Zmtp.new()
		zmtp.feed(wrong[name])
		_check(zmtp.fault != "" and zmtp.messages.is_empty(), name + " is a fault")
	var random := RandomNumberGenerator.new()
	random.seed = 2
	for i in 500:
		var other := wire.duplicate()
		for n in 3:
			other[random.randi() % other.size()] = random.randi() % 256
		Zmtp.new().feed(other.slice(0, random.randi() % other.size()))


func _test_parts() -> void:
	var message: Dictionary = Msgpack.new().unpack(
			FileAccess.get_file_as_bytes(_fixtures + "/valid/server_frame.msgpack"))
	var pixels := PackedByteArray([1, 2, 3])
	message["codec"] = "rgb"
	message["image"] = null
	message["depth"] = null
	var depth := PackedByteArray([4, 5])
	var whole: Variant = Protocol.decode_parts([Msgpack.pack(message), pixels, depth])
	_check(whole is Dictionary and whole["image"] == pixels and whole["depth"] == depth, "parts")
	for parts: Array in [[Msgpack.pack(message)], [Msgpack.pack(message), pixels],
			[Protocol.encode({"type": "status", "state": "playing"}), pixels]]:
		_check(Protocol.decode_parts(parts) is Fault, "%d parts are refused" % parts.size())
