extends RefCounted
## The messages between a client and the gateway, protocol version 2: builders for those a client
## sends, checks of both directions. `docs/protocol.md` describes them field by field.

const Fault = preload("fault.gd")
const Msgpack = preload("msgpack.gd")

const VERSION := 2
const STATES_PER_INPUT := 4
const MAX_KEYS := 16
const MAX_SERVER_MESSAGE := 8388608
const MAX_PART := 262144  # bytes of a prompt frame in one message
const MAX_CLIENT_MESSAGE := 65536
const CLIENT_LIMITS: Dictionary[String, int] = {
	"hello": 4096, "input": 4096, "observe": 1229824, "prompt_frame": 263168,
	"prompt_depth": 263168,
}
const CLIENT_CODES: Dictionary[String, String] = {
	"input": "invalid_input", "observe": "invalid_input", "prompt_frame": "bad_prompt_frame",
	"prompt_depth": "bad_prompt_frame",
}

static var _server := _server_messages()
static var _client := _client_messages()


static func hello(client: String, role: String, token: Variant = null, resume: Variant = null,
		world: Variant = null, depth := false, zeromq := false, wait := false) -> Dictionary:
	return {"type": "hello", "client": client, "role": role,
		"transports": ["zeromq"] if zeromq else ["websocket"],
		"codecs": ["rgb"] if zeromq else ["jpeg"], "token": token, "resume": resume, "session": null, "world": world,
		"max_frame": null, "depth": depth, "wait": wait, "version": VERSION}


## Split prompt frames, which are PNG or JPEG files, oldest first, into the messages before `start`.
static func prompt_frames(files: Array) -> Array[Dictionary]:
	var result: Array[Dictionary] = []
	for index in files.size():
		var file: PackedByteArray = files[index]
		var parts := maxi(1, ceili(float(file.size()) / MAX_PART))
		for part in parts:
			result.append({"type": "prompt_frame", "index": index, "count": files.size(),
				"part": part, "parts": parts,
				"data": file.slice(part * MAX_PART, (part + 1) * MAX_PART)})
	return result


## Begin the session's world, or restart it; what is null stays as it was. `prompt_frames`: how many
## were sent before, 0 to start from the theme.
static func start(theme: Variant = null, seed_: Variant = null, prompt: Variant = null,
		prompt_frames: Variant = null) -> Dictionary:
	return {"type": "start", "theme": theme, "seed": seed_, "prompt": prompt,
		"prompt_frames": prompt_frames}


## `states` are controller states, newest first, from `InputSampler.history`.
static func input(states: Array) -> Dictionary:
	return {"type": "input", "states": states}


## Give a world a view of the engine's scene. `rgb` has 3 bytes for each pixel, `depth` 2, little-endian,
## of `depth_scale` metres along the camera's axis.
static func observe(camera: Dictionary, size: Vector2i, rgb: PackedByteArray, depth: PackedByteArray,
		depth_scale: float, fresh: bool) -> Dictionary:
	return {"type": "observe", "observation": {"camera": camera, "width": size.x, "height": size.y,
		"rgb": rgb, "depth": depth, "depth_scale": depth_scale, "fresh": fresh}}


## Let the server send that number of frames more, by ZeroMQ.
static func credit(frames: int) -> Dictionary:
	return {"type": "credit", "frames": frames}


static func ping(time: float) -> Dictionary:
	return {"type": "ping", "time": time}


## Times are client milliseconds; `offset` is client time minus server time or null.
static func frame_shown(frame: int, received: float, shown: float, offset: Variant = null,
		refresh: Variant = null) -> Dictionary:
	return {"type": "frame_shown", "frame": frame, "received": received, "shown": shown,
		"offset": offset, "refresh": refresh}


static func bye() -> Dictionary:
	return {"type": "bye"}


static func encode(message: Dictionary) -> PackedByteArray:
	return Msgpack.pack(message)


## Return a message of the server as a Dictionary with every absent field at its default, or a
## Fault.
static func decode_server(data: PackedByteArray) -> Variant:
	if data.size() > MAX_SERVER_MESSAGE:
		return _too_large("", MAX_SERVER_MESSAGE, data)
	var message: Variant = _unpack(data, _server)
	if message is Fault:
		return message
	if message["type"] == "welcome" and message.get("version", VERSION) != VERSION:
		return _wrong_version("welcome", message["version"])
	return _checked(message, _server, "bad_message")


## Return the message of the parts that came by ZeroMQ, as `decode_server` does.
static func decode_parts(parts: Array) -> Variant:
	var message: Variant = decode_server(parts[0])
	if message is Fault:
		return message
	var payload: Array[String] = []
	if message["type"] == "frame" and message["codec"] != null and message["image"] == null:
		payload.append("image")
		if message["depth_scale"] != null:
			payload.append("depth")
	if parts.size() != 1 + payload.size():
		return Fault.new("bad_message", message["type"], "%d parts" % (1 + payload.size()),
				str(parts.size()))
	for i in payload.size():
		message[payload[i]] = parts[1 + i]
	return message


## Return a message of a client, checked as the server does it, or a Fault.
static func decode_client(data: PackedByteArray) -> Variant:
	var message: Variant = _unpack(data, _client)
	if message is Fault:
		return message
	var name: String = message["type"]
	var limit: int = CLIENT_LIMITS.get(name, MAX_CLIENT_MESSAGE)
	if data.size() > limit:
		return _too_large(name, limit, data)
	if name == "hello" and message.get("version", VERSION) != VERSION:
		return _wrong_version("hello.version", message["version"])
	var result: Variant = _checked(message, _client, CLIENT_CODES.get(name, "bad_message"))
	if result is Fault or not name in ["prompt_frame", "prompt_depth"]:
		return result
	if message.get("index", 0) >= message.get("count", 1) or message["part"] >= message["parts"]:
		return Fault.new("bad_prompt_frame", name, "index < count and part < parts",
				"%d of %d" % [message["part"], message["parts"]])
	return result


static func _too_large(name: String, limit: int, data: PackedByteArray) -> Fault:
	return Fault.new("message_too_large", name, "at most %d bytes" % limit,
			"%d bytes" % data.size())


static func _wrong_version(path: String, version: Variant) -> Fault:
	return Fault.new("version_mismatch", path, "version %d" % VERSION, "version %s" % version,
			"Client and server use different protocol versions")


static func _unpack(data: PackedByteArray, kinds: Dictionary) -> Variant:
	var reader := Msgpack.new()
	var message: Variant = reader.unpack(data)
	if reader.expected:
		return Fault.new("bad_message", "", reader.expected, reader.got)
	if not message is Dictionary:
		return Fault.new("bad_message", "", "a map", type_string(typeof(message)))
	var name: Variant = message.get("type")
	if not name is String or not kinds.has(name):
		return Fault.new("unknown_type", "type", ", ".join(kinds.keys()), str(name))
	return message


static func _checked(message: Dictionary, kinds: Dictionary, code: String) -> Variant:
	var fault := _check(message, kinds[message["type"]], message["type"])
	if fault == null:
		return message
	fault.code = code
	return fault


# -- what a field may be ----------------------------------------------------------------------------
# A rule is a Dictionary: `kind`, its limits, and `default` if the field may be absent. With the
# default null the field may be nil too.


static func _rule(kind: String, low: Variant = null, high: Variant = null) -> Dictionary:
	return {"kind": kind, "low": low, "high": high}


static func _text(longest := 2000) -> Dictionary:
	return _rule("text", 0, longest)


static func _integer(low: int, high := Msgpack.MAX_INTEGER) -> Dictionary:
	return _rule("integer", low, high)


static func _number(low := -INF, high := INF) -> Dictionary:
	return _rule("number", low, high)


static func _one_of(names: Array) -> Dictionary:
	return {"kind": "choice", "names": names}


static func _list(item: Dictionary, high: int, low := 0) -> Dictionary:
	return {"kind": "list", "item": item, "low": low, "high": high}


static func _record(fields: Dictionary) -> Dictionary:
	return {"kind": "record", "fields": fields}


static func _or(rule: Dictionary, default: Variant) -> Dictionary:
	var result := rule.duplicate()
	result["default"] = default
	return result


static func _optional(rule: Dictionary) -> Dictionary:
	return _or(rule, null)


static func _bad(path: String, expected: String, value: Variant) -> Fault:
	var simple := value is int or value is float or value is bool
	return Fault.new("bad_message", path, expected,
			str(value) if simple else type_string(typeof(value)))


static func _check(value: Variant, rule: Dictionary, path: String) -> Fault:
	match rule["kind"]:
		"text":
			if not value is String or value.length() > rule["high"]:
				return _bad(path, "a string of at most %d" % rule["high"], value)
		"integer", "even":
			if not value is int or value < rule["low"] or value > rule["high"] \
					or (rule["kind"] == "even" and value % 2):
				return _bad(path, "an %s integer from %d to %d" %
						["even" if rule["kind"] == "even" else "", rule["low"], rule["high"]], value)
		"number":
			if not (value is int or value is float) or not is_finite(value) \
					or value < rule["low"] or value > rule["high"]:
				return _bad(path, "a number from %s to %s" % [rule["low"], rule["high"]], value)
		"choice":
			if not value is String or value not in rule["names"]:
				return _bad(path, "one of " + ", ".join(rule["names"]), value)
		"flag":
			if not value is bool:
				return _bad(path, "a boolean", value)
		"bytes":
			if not value is PackedByteArray or value.size() > rule["high"]:
				return _bad(path, "at most %d bytes" % rule["high"], value)
		"map":
			if not value is Dictionary:
				return _bad(path, "a map", value)
		"list":
			return _check_list(value, rule, path)
		_:
			return _check_record(value, rule, path)
	return null


static func _check_list(value: Variant, rule: Dictionary, path: String) -> Fault:
	if not value is Array:
		return _bad(path, "an array", value)
	if value.size() < rule["low"] or value.size() > rule["high"]:
		return _bad(path, "%d to %d items" % [rule["low"], rule["high"]], value.size())
	for i in value.size():
		var fault := _check(value[i], rule["item"], "%s[%d]" % [path, i])
		if fault:
			return fault
	return null


static func _check_record(value: Variant, rule: Dictionary, path: String) -> Fault:
	if not value is Dictionary:
		return _bad(path, "a map", value)
	var fields: Dictionary = rule["fields"]
	for name: String in fields:
		var field: Dictionary = fields[name]
		if not value.has(name):
			if not field.has("default"):
				return Fault.new("bad_message", path + "." + name, "a value", "nothing")
			var default: Variant = field["default"]
			value[name] = default.duplicate() if default is Array else default
			continue
		if value[name] == null and field.has("default") and field["default"] == null:
			continue
		var fault := _check(value[name], field, path + "." + name)
		if fault:
			return fault
	if rule.has("rotation"):
		var squared := 0.0
		for part: float in value["orientation"]:
			squared += part * part
		if absf(sqrt(squared) - 1.0) > 0.01:
			return _bad(path, "a unit quaternion", sqrt(squared))
	return null


static func _pose() -> Dictionary:
	return _record({
		"position": _or(_list(_number(), 3, 3), [0.0, 0.0, 0.0]),
		"orientation": _or(_list(_number(), 4, 4), [0.0, 0.0, 0.0, 1.0]),
		"fov_y": _or(_number(1, 179), 50.0),
	})


static func _world_spec() -> Dictionary:
	var name := _text(64)
	var control := _record({
		"name": name,
		"kind": _one_of(["axis", "button", "look"]),
		"range": _or(_list(_number(), 2, 2), [-1.0, 1.0]),
		"low_keys": _or(_list(name, 8), []),
		"high_keys": _or(_list(name, 8), []),
		"default_axis": _optional(_integer(0, 3)),
		"inverted": _or(_rule("flag"), false),
	})
	return _record({
		"name": name,
		"title": _text(),
		"width": _rule("even", 2, 8192),
		"height": _rule("even", 2, 8192),
		"fps": _number(0.1, 1000),
		"frames_per_latent": _integer(1, 64),
		"themes": _list(name, 256),
		"action_schema": _list(control, 64),
		"context_latents": _integer(0),
		"kind": _one_of(["procedural", "autoregressive"]),
		"max_prompt_frames": _or(_integer(0, 9), 0),
		"conditionings": _or(_list(name, 16), []),
		"depth": _or(_rule("flag"), false),
	})


static func _frame_header() -> Dictionary:
	var time := _number()
	return _record({
		"frame": _integer(0),
		"input_sequence": _integer(-1),
		"input_time": time, "t_input": time, "t_controls": time, "t_tokens": time, "t_frame": time,
		"camera": _pose(),
		"t_gateway": _or(time, 0.0), "t_encoded": _or(time, 0.0), "t_sent": _or(time, 0.0),
		"width": _or(_integer(0, 8192), 0),
		"height": _or(_integer(0, 8192), 0),
		"rtp": _optional(_integer(0, 0xffffffff)),
		"dropped": _or(_integer(0), 0),
		"batch": _or(_integer(1), 1),
	})


static func _server_messages() -> Dictionary:
	var name := _text(64)
	var text := _text()
	var codec := _one_of(["bgra", "h264", "i420", "jpeg", "rgb", "vp8"])
	var bytes := _rule("bytes", 0, MAX_SERVER_MESSAGE)
	var ice_server := _record({"urls": _list(text, 8), "username": _optional(text),
		"credential": _optional(text)})
	return {
		"welcome": _record({
			"server": name, "session": name, "resume": _text(256),
			"role": _one_of(["engine", "player", "spectator"]),
			"world": _world_spec(),
			"seat": _record({"state": _one_of(["queued", "seated", "watching"]),
				"position": _optional(_integer(0)), "expected_wait_s": _optional(_number())}),
			"seats": _record({"used": _integer(0), "total": _integer(0)}),
			"transport": _one_of(["webrtc", "websocket", "zeromq"]),
			"codec": codec,
			"started": _or(_rule("flag"), false),
			"ice_servers": _or(_list(ice_server, 8), []),
			"kept_s": _optional(_number()),
			"version": _or(_integer(0), VERSION),
		}),
		"status": _record({
			"state": _one_of(["loading", "playing", "queued", "ready", "reconnecting"]),
			"detail": _or(text, ""), "progress": _optional(_number(0, 1)),
			"position": _optional(_integer(0)), "expected_wait_s": _optional(_number()),
		}),
		"frame": _record({
			"header": _frame_header(), "image": _optional(bytes), "codec": _optional(codec),
			"depth": _optional(bytes), "depth_scale": _optional(_number()),
		}),
		"event": _record({
			"name": _one_of(["control_requested", "seat_warning", "session_resumed", "world_lost",
				"world_reset", "world_restored"]),
			"detail": _or(text, ""), "seconds": _optional(_number()),
			"frames": _optional(_integer(0)),
		}),
		"error": _record({
			"code": name, "message": text, "expected": _or(text, ""), "got": _or(text, ""),
			"remedy": _or(text, ""), "path": _or(text, ""), "fatal": _or(_rule("flag"), true),
		}),
		"pong": _record({"time": _number(), "server_time": _number()}),
		"answer": _record({"sdp": _text(60000)}),
		"stats": _record({"values": _optional(_rule("map"))}),
	}


static func _observation() -> Dictionary:
	var camera := _pose()
	camera["rotation"] = true
	return _record({
		"camera": camera, "width": _integer(1, 8192), "height": _integer(1, 8192),
		"rgb": _rule("bytes", 0, 737280), "depth": _rule("bytes", 0, 491520),
		"depth_scale": _number(1e-6, 10), "fresh": _or(_rule("flag"), false),
	})


static func _client_messages() -> Dictionary:
	var name := _text(64)
	var camera := _pose()
	camera["rotation"] = true
	var state := _record({
		"sequence": _integer(0), "time": _number(),
		"axes": _or(_list(_number(-1, 1), 4, 4), [0.0, 0.0, 0.0, 0.0]),
		"buttons": _or(_integer(0, 131071), 0),
		"keys": _or(_list(_text(24), MAX_KEYS), []),
		"pointer": _or(_list(_number(), 2, 2), [0.0, 0.0]),
		"camera": _optional(camera),
	})
	return {
		"hello": _record({
			"client": _or(name, ""),
			"role": _or(_one_of(["engine", "player", "spectator"]), "player"),
			"transports": _or(_list(name, 8), ["websocket"]),
			"codecs": _or(_list(name, 8), ["jpeg"]),
			"token": _optional(_text(256)), "resume": _optional(_text(256)),
			"session": _optional(name), "world": _optional(name),
			"max_frame": _optional(_list(_integer(1, 8192), 2, 2)),
			"depth": _or(_rule("flag"), false),
			"wait": _or(_rule("flag"), false),
			"version": _or(_integer(0), VERSION),
		}),
		"prompt_frame": _record({
			"index": _integer(0, 8), "count": _integer(1, 9), "part": _integer(0, 31),
			"parts": _integer(1, 32), "data": _rule("bytes", 0, 262144),
		}),
		"prompt_depth": _record({
			"part": _integer(0, 31), "parts": _integer(1, 32), "scale": _number(1e-6, 10),
			"data": _rule("bytes", 0, 262144),
		}),
		"observe": _record({"observation": _observation()}),
		"start": _record({
			"theme": _optional(name), "seed": _optional(_integer(0)),
			"prompt": _optional(_text()), "prompt_frames": _optional(_integer(0, 9)),
		}),
		"input": _record({"states": _list(state, STATES_PER_INPUT, 1)}),
		"ping": _record({"time": _number()}),
		"offer": _record({"sdp": _text(60000)}),
		"frame_shown": _record({
			"frame": _integer(0), "received": _number(), "shown": _number(),
			"offset": _optional(_number()), "refresh": _optional(_number(1, 1000)),
		}),
		"credit": _record({"frames": _integer(1, 8)}),
		"stats": _record({}),
		"request_control": _record({}),
		"hand_over": _record({}),
		"bye": _record({"keep": _or(_rule("flag"), false)}),
	}
