using UnityEditor;
using UnityEngine;

namespace WorldBridge.Editor
{
    /// <summary>Show a stream's state, rates and last error below its settings.</summary>
    [CustomEditor(typeof(WorldStream))]
    public sealed class WorldStreamEditor : UnityEditor.Editor
    {
        /// <inheritdoc/>
        public override bool RequiresConstantRepaint() => Application.isPlaying;

        /// <inheritdoc/>
        public override void OnInspectorGUI()
        {
            DrawDefaultInspector();
            if (!Application.isPlaying) return;
            var stream = (WorldStream)target;
            WorldClient client = stream.Client;
            EditorGUILayout.Space();
            EditorGUILayout.LabelField("Connection", stream.State.ToString());
            if (client == null) return;
            EditorGUILayout.LabelField("Detail", client.Detail);
            EditorGUILayout.LabelField("Frames shown", stream.FramesShown.ToString());
            EditorGUILayout.LabelField("Frames replaced", client.Replaced.ToString());
            EditorGUILayout.LabelField("Frame rate", $"{client.FrameRate:0.0} per second");
            EditorGUILayout.LabelField("Round trip", $"{client.RoundTrip:0.0} ms");
            EditorGUILayout.LabelField("Controls to frame", $"{client.Latency:0.0} ms");
            EditorGUILayout.BeginHorizontal();
            if (GUILayout.Button(stream.Paused ? "Continue" : "Pause")) stream.Paused = !stream.Paused;
            if (GUILayout.Button("Restart")) stream.Restart();
            EditorGUILayout.EndHorizontal();
            ProtocolError error = client.Error;
            if (error == null) return;
            EditorGUILayout.HelpBox(
                $"{error.Code}: {error.Message}\nexpected: {error.Expected}\ngot: {error.Got}\n{error.Remedy}",
                MessageType.Error
            );
        }
    }
}
