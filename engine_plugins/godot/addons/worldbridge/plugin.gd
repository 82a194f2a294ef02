@tool
extends EditorPlugin
## Offers the nodes WorldStream, WorldBackdrop and WorldGuide in the editor's list of nodes.


func _enter_tree() -> void:
	add_custom_type("WorldStream", "Node", preload("world_stream.gd"),
			EditorInterface.get_editor_theme().get_icon("Node", "EditorIcons"))
	add_custom_type("WorldBackdrop", "MeshInstance3D", preload("world_backdrop.gd"),
			EditorInterface.get_editor_theme().get_icon("MeshInstance3D", "EditorIcons"))
	add_custom_type("WorldGuide", "Node", preload("world_guide.gd"),
			EditorInterface.get_editor_theme().get_icon("Camera3D", "EditorIcons"))


func _exit_tree() -> void:
	remove_custom_type("WorldGuide")
	remove_custom_type("WorldBackdrop")
	remove_custom_type("WorldStream")
