using UnityEngine;
using UnityEngine.UI;

namespace WorldBridge.Samples
{
    /// <summary>
    /// Show a stream on a <see cref="RawImage"/>. Put it beside a <see cref="WorldStream"/>, on the
    /// object with the image.
    /// </summary>
    [RequireComponent(typeof(WorldStream), typeof(RawImage))]
    public sealed class Viewer : MonoBehaviour
    {
        private WorldStream stream;
        private RawImage image;

        private void Awake()
        {
            stream = GetComponent<WorldStream>();
            image = GetComponent<RawImage>();
            stream.TextureChanged.AddListener(OnTextureChanged);
        }

        private void OnDestroy() => stream.TextureChanged.RemoveListener(OnTextureChanged);

        private void OnTextureChanged() => image.texture = stream.Texture;
    }
}
